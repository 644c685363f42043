// Owns: making and filling nodes. Text only: what comes from the server or from clients is never markup.
// Must not know: what is shown.

export const find = (selector, root = document) => root.querySelector(selector);

/** An element with properties, attributes (those with a dash) and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-')) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Changes a node's text only where it is another: selections and screen readers are left alone. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Fills a table. `columns` are {title, of, kind}: `of` makes a string or a node of a row, and `kind` is a class.
 * Rows keep their nodes by place, so that a table that changes each second does not lose focus or selection.
 */
export function fillTable(table, columns, rows, empty) {
  const layout = columns.map((column) => column.title).join('|');
  if (table.dataset.layout !== layout) {
    table.dataset.layout = layout;
    const heads = columns.map(({ title, kind }) => make('th', { scope: 'col', className: kind ?? '' }, title));
    table.replaceChildren(make('thead', {}, make('tr', {}, ...heads)), make('tbody'));
  }
  const body = table.tBodies[0];
  if (rows.length === 0) {
    if (!body.querySelector('.empty')) {
      body.replaceChildren(make('tr', {}, make('td', { className: 'empty', colSpan: columns.length }, empty)));
    }
    return;
  }
  body.querySelector('.empty')?.closest('tr').remove();
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((row, place) => {
    const line = body.rows[place] ?? body.appendChild(make('tr', {}, ...columns.map(({ kind }) => make('td', { className: kind ?? '' }))));
    columns.forEach(({ of }, column) => {
      const shown = of(row);
      const cell = line.cells[column];
      if (shown instanceof Node) cell.replaceChildren(shown);
      else setText(cell, shown);
    });
  });
}

/** Fills a list of facts with [name, text, is_alarm]. */
export function fillFacts(list, facts) {
  while (list.children.length > 2 * facts.length) list.lastChild.remove();
  facts.forEach(([name, text, is_alarm], place) => {
    const term = list.children[2 * place] ?? list.appendChild(make('dt'));
    const value = list.children[2 * place + 1] ?? list.appendChild(make('dd'));
    setText(term, name);
    setText(value, text);
    value.classList.toggle('alarm', Boolean(is_alarm));
  });
}

export function say(node, text, kind = '') {
  node.dataset.kind = kind;
  setText(node, text);
}
