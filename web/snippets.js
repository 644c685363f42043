// Owns: the commands for a terminal, with this server's address in them, and copying them.
// Must not know: anything live.

const origin = location.origin;
const events = `${origin}/v1/channels/host/events`;

const SNIPPETS = [
  {
    key: 'short-polling',
    title: 'Short polling',
    command: `curl '${events}?limit=3'`,
    note: 'The oldest three; go on with ?since= and the cursor of the answer.',
  },
  {
    key: 'long-polling',
    title: 'Long polling',
    command: `curl '${events}?wait=25'`,
    note: 'Held until the next event.',
  },
  {
    key: 'sse',
    title: 'Server-sent events',
    command: `curl -N -H 'Accept: text/event-stream' '${events}'`,
    note: "From now on; add -H 'Last-Event-ID: …' to resume.",
  },
  {
    key: 'websocket',
    title: 'WebSocket',
    command: `curl -N '${origin.replace(/^http/, 'ws')}/v1/channels/host/ws'`,
    note: 'The raw mode, each message an event. Needs curl 8.11 or later.',
  },
  {
    key: 'publish',
    title: 'Publish',
    command: `curl -H 'Tidewire-Event: note' -d '{"text":"hello from curl"}' '${events}'`,
    note: 'Appears in the four columns above.',
  },
];

export function createSnippets(list) {
  for (const { key, title, command, note } of SNIPPETS) {
    const item = element('li', { id: `curl-${key}` });
    const copy = element('button', { type: 'button', textContent: 'Copy' });
    copy.setAttribute('aria-label', `Copy the command for ${title}`);
    const code = element('code', { textContent: command });
    const box = element('pre', {}, code);
    copy.addEventListener('click', () => copyCommand(command, code, copy));
    const heading = [element('h3', { textContent: title }), element('p', { textContent: note })];
    item.append(
      element('div', { className: 'snippet-head' }, ...heading),
      element('div', { className: 'snippet-body' }, box, copy),
    );
    list.append(item);
  }
}

async function copyCommand(command, code, button) {
  try {
    await navigator.clipboard.writeText(command);
    button.textContent = 'Copied';
  } catch {
    // The clipboard is closed to pages on plain HTTP; with the command selected, the keyboard does it.
    getSelection().selectAllChildren(code);
    button.textContent = 'Selected';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
