// Owns: putting the page together: the four transports at one cursor, the header's verdict, the drawing loop.
// Must not know: how a transport works, how a card is drawn.

import { createBackoff, sleep } from './backoff.js';
import * as clock from './clock.js';
import { createColumnView } from './column-view.js';
import { createColumn } from './column.js';
import { createComparison } from './comparison.js';
import { createEventSource } from './event-source.js';
import * as format from './format.js';
import { createHostView } from './host-view.js';
import { request } from './http.js';
import { createLongPolling } from './long-polling.js';
import { createPublisher } from './publish.js';
import { createShortPolling } from './short-polling.js';
import { createSnippets } from './snippets.js';
import { createStatistics } from './statistics.js';
import { createWebSocket } from './web-socket.js';

const CHANNEL = 'host';
// EventSource hears only the names it asks for, so other names are left out of the comparison on all four.
const NAMES = ['message', 'sample', 'note'];
// One page of the log's start. Where the log is longer, the sparklines fill as they go.
const HISTORY_MAX = 1000;
const FRAME_MS = matchMedia('(prefers-reduced-motion: reduce)').matches ? 1000 : 80;
const CLOCK_NOTICE_MS = 5;

const polling_bytes = 'Answers: their heads as fetch shows them, and their bodies by Content-Length. '
  + 'Requests: estimated, as the page does not see the fields that the browser adds. HTTP/1.1, without TCP and TLS.';
const TRANSPORTS = {
  'short-polling': { create: createShortPolling, counting: polling_bytes },
  'long-polling': { create: createLongPolling, counting: polling_bytes },
  sse: {
    create: createEventSource,
    counting: 'Each event as the protocol frames it. The heads of request and answer are estimated and heartbeats '
      + 'left out, as EventSource shows neither. HTTP/1.1, without TCP and TLS.',
  },
  websocket: {
    create: createWebSocket,
    counting: 'Each message with its frame head, before compression if that was agreed. The handshake is estimated '
      + 'and pings left out, as a page sees neither. Without TCP and TLS.',
  },
};

const notice = document.querySelector('[data-notice]');
const comparison = createComparison(Object.keys(TRANSPORTS));
const host_view = createHostView(document.querySelector('.host'));
const columns = [];
const views = new Map();
// The ids that the host panel has: it takes each sample from whichever transport is first.
const drawn_ids = new Set();

function createColumns() {
  for (const [key, { create, counting }] of Object.entries(TRANSPORTS)) {
    const column = createColumn({
      key,
      transport: create({ channel: CHANNEL, names: NAMES }),
      comparison,
      statistics: createStatistics(),
      hears: (event) => NAMES.includes(event.name ?? 'message'),
      onDelivery: (event, how) => deliver(key, event, how),
    });
    columns.push(column);
    views.set(key, createColumnView(document.querySelector(`[data-transport="${key}"]`), { column, counting }));
  }
}

function deliver(key, event, how) {
  if (event.name !== 'sample') views.get(key).drawNote(event, how);
  else addSample(event) && host_view.draw();
}

function addSample({ id, data }) {
  if (drawn_ids.has(id)) return false;
  drawn_ids.add(id);
  if (drawn_ids.size > HISTORY_MAX) drawn_ids.delete(drawn_ids.values().next().value);
  host_view.add(data);
  return true;
}

/** The one position from which all four begin. Asked for until the server is there. */
async function readSnapshot() {
  const backoff = createBackoff();
  for (;;) {
    try {
      const { json } = await request(`/v1/channels/${CHANNEL}`);
      say('');
      return json;
    } catch (error) {
      say(`No answer from the server yet (${error.message}). Trying again.`);
      await sleep(backoff.next(error.retry_after_ms));
    }
  }
}

/** For the sparklines only, so a failure costs nothing but an empty start. */
async function readHistory({ cursor, events }) {
  if (events > HISTORY_MAX) return;
  const { json } = await request(`/v1/channels/${CHANNEL}/events?since=earliest&limit=${HISTORY_MAX}`);
  const until = json.events.findIndex((event) => event.id === cursor);
  for (const event of json.events.slice(0, until + 1)) {
    if (event.event === 'sample') addSample({ id: event.id, data: event.data });
  }
  host_view.draw();
}

function say(text) {
  notice.hidden = text === '';
  if (notice.textContent !== text) notice.textContent = text;
}

const VERDICTS = { same: 'OK', differs: 'differs', comparing: 'comparing' };

function drawVerdict() {
  const node = document.querySelector('[data-verdict]');
  const { state, compared, detail } = comparison.verdict();
  if (node.dataset.verdict !== state) {
    node.dataset.verdict = state;
    node.querySelector('[data-verdict-text]').textContent = VERDICTS[state];
  }
  const gaps = Math.max(...columns.map((column) => column.statistics.totals.gaps));
  const after = gaps > 0 ? ' since the last gap' : '';
  const counted = `${format.count(compared)} ids compared${after}`;
  const note = node.querySelector('[data-verdict-note]');
  note.textContent = state === 'same' ? counted : (detail ?? (gaps > 0 ? 'after a gap, from the next common id' : ''));
}

function tick() {
  for (const column of columns) column.tick();
  drawVerdict();
  const behind_ms = clock.clockBehind();
  if (behind_ms > CLOCK_NOTICE_MS) {
    const behind = format.duration(behind_ms);
    say(`This machine's clock is ${behind} behind the server's. That much is added to each latency.`);
  }
}

let drawn_ms = -Infinity;
function frame(at_ms) {
  // The browser stops these frames while the tab is hidden, so an unseen page costs no drawing.
  if (at_ms - drawn_ms >= FRAME_MS) {
    drawn_ms = at_ms;
    for (const view of views.values()) view.draw(clock.now());
  }
  requestAnimationFrame(frame);
}

async function main() {
  createSnippets(document.querySelector('[data-snippets]'));
  createPublisher(document.querySelector('[data-publish]'), { channel: CHANNEL });
  createColumns();
  requestAnimationFrame(frame);

  const snapshot = await readSnapshot();
  await readHistory(snapshot).catch(() => {});
  for (const column of columns) column.start(snapshot.cursor);
  setInterval(tick, 1000);

  addEventListener('pagehide', () => columns.forEach((column) => column.stop()));
  // A page taken out of the back-forward cache has lost its connections, and its position may be hours old.
  addEventListener('pageshow', (event) => event.persisted && location.reload());
}

main();
