// Owns: one transport's card in the page.
// Must not know: transports, how figures are come by.

import * as format from './format.js';
import { createStrip } from './strip.js';

const NOTES_MAX = 4;
const LABELS = {
  connecting: 'connecting',
  live: 'live',
  cut: 'cut',
  reconnecting: 'reconnecting',
  resuming: 'resuming',
  refused: 'refused',
};

/** `counting` says in words how this transport's bytes are counted. */
export function createColumnView(article, { column, counting }) {
  article.append(document.getElementById('column-body').content.cloneNode(true));
  const find = (selector) => article.querySelector(selector);
  const fields = new Map([...article.querySelectorAll('[data-field]')].map((node) => [node.dataset.field, node]));
  const badge = span('badge', '');
  find('header').append(badge);

  const title = find('h3').textContent;
  const strip = createStrip(find('canvas'));
  find('canvas').setAttribute('aria-label', `${title}: arrivals of the last minute by latency`);
  const tip = find('.tip');
  tip.textContent = counting;
  tip.id = `${article.dataset.transport}-counting`;
  find('.hint').setAttribute('aria-describedby', tip.id);

  const button = find('[data-cut]');
  button.addEventListener('click', () => column.cut());
  const outcome_node = find('[data-outcome]');

  /** Only what changed is written: a screen reader and the layout are left alone otherwise. */
  function write(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function drawFigures({ totals, latency, lastId }) {
    const { median_ms, p99_ms } = latency();
    const total_bytes = totals.sent + totals.received;
    write(fields.get('median'), format.duration(median_ms));
    write(fields.get('p99'), format.duration(p99_ms));
    write(fields.get('events'), format.count(totals.events));
    write(fields.get('requests'), format.count(totals.requests));
    write(fields.get('bytes'), format.bytes(total_bytes));
    write(fields.get('bytes-per-event'), totals.events ? format.bytes(total_bytes / totals.events) : '–');
    write(fields.get('gaps'), format.count(totals.gaps));
    write(fields.get('repeats'), format.count(totals.repeats));
    write(fields.get('last-id'), lastId() ?? '–');
    fields.get('bytes').title = `${format.bytes(totals.sent)} sent, ${format.bytes(totals.received)} received`;
    fields.get('gaps').classList.toggle('alarm', totals.gaps > 0);
    fields.get('repeats').classList.toggle('alarm', totals.repeats > 0);
  }

  function drawState({ state, detail, outcome, cut_left_ms }) {
    article.dataset.state = state;
    write(badge, LABELS[state]);
    badge.title = detail;
    button.disabled = state === 'cut';
    if (state === 'cut') write(button, `Cut: ${Math.ceil(cut_left_ms / 1000)} s left`);
    else write(button, state === 'refused' ? 'Try again' : 'Cut for 5 s');
    drawOutcome(state, detail, outcome);
  }

  function drawOutcome(state, detail, outcome) {
    const is_over = outcome !== null && state === 'live';
    const is_good = is_over && !outcome.gap && outcome.lost === 0 && outcome.repeated === 0 && outcome.in_order;
    outcome_node.dataset.outcome = is_over ? (is_good ? 'good' : outcome.gap ? 'gap' : 'bad') : '';
    if (is_over && !outcome.gap) {
      Object.assign(outcome_node.dataset, { resumed: outcome.events, lost: outcome.lost, repeated: outcome.repeated });
    }
    write(outcome_node, is_over ? outcomeText(outcome) : state === 'refused' || state === 'reconnecting' ? detail : '');
  }

  function drawNote(event, { latency_ms, is_replay }) {
    const item = document.createElement('li');
    const text = span('note-text', noteText(event.data));
    const took = span(is_replay ? 'note-latency replayed' : 'note-latency', format.duration(latency_ms));
    if (is_replay) took.title = 'Replayed after an interruption';
    item.dataset.id = event.id;
    // The card shows one line of it.
    item.title = `${text.textContent} (${event.id})`;
    item.append(text, took);
    const list = find('[data-notes]');
    list.prepend(item);
    if (list.children.length > NOTES_MAX) list.lastElementChild.remove();
  }

  return {
    drawNote,
    draw(now_ms) {
      drawState(column.snapshot());
      drawFigures(column.statistics);
      strip.draw(column.statistics.marks, now_ms);
    },
  };
}

function outcomeText({ gap, events, lost, repeated, in_order }) {
  if (gap) return 'gap: what was missed is no longer kept';
  const order = in_order || lost > 0 ? '' : ', out of order';
  const noun = events === 1 ? 'event' : 'events';
  return `resumed: ${format.count(events)} ${noun}, ${lost} lost, ${repeated} repeated${order}`;
}

function span(className, textContent) {
  return Object.assign(document.createElement('span'), { className, textContent });
}

/** Anybody may publish a note, from curl too, so its data may be of any shape. */
function noteText(data) {
  if (typeof data === 'string') return data;
  return typeof data?.text === 'string' ? data.text : JSON.stringify(data);
}
