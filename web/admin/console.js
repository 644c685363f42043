// Owns: the console: listening to one channel over one of four transports, and publishing to it.
// Must not know: how the rest of the page listens.

import { ask, call, fieldValue, key } from './api.js';
import { fillTable, find, say, setText } from './dom.js';
import { readEvents } from './event-stream.js';
import { count, duration } from './format.js';

const SHOWN_MAX = 200;
const POLL_MS = 1000;
const WAIT_SECONDS = 25;

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    resolve();
  }, { once: true });
});

const several = (channel, more = {}) => `/v1/events?${new URLSearchParams({ channel, ...more })}`;

// Each listens until `signal` aborts, or throws. `heard` gets an event as the protocol's JSON has it.
const TRANSPORTS = {
  async sse({ channel, since, token, signal, listening, heard }) {
    let last_id = '';
    while (!signal.aborted) {
      const path = several(channel, last_id ? {} : { since });
      const retry_ms = await readEvents(path, {
        last_id,
        token,
        signal,
        onOpen: listening,
        onEvent: ({ name, data, id }) => {
          last_id = id || last_id;
          const is_own = name.startsWith('tidewire.');
          if (name !== 'position') heard(is_own ? { event: name, data: JSON.parse(data) } : JSON.parse(data));
        },
      });
      await pause(retry_ms, signal);
    }
  },
  'long-poll': (options) => poll({ ...options, wait: WAIT_SECONDS }),
  poll: (options) => poll(options),
  websocket: webSocket,
};

async function poll({ channel, since, token, signal, listening, heard, wait }) {
  let cursor = since;
  while (!signal.aborted) {
    const path = several(channel, wait ? { since: cursor, wait } : { since: cursor });
    // A long poll may be held for long: whoever listens is told so before.
    if (wait) listening();
    const answer = await (await call(path, { token, signal })).json();
    listening();
    answer.events.forEach(heard);
    if (answer.gap) heard({ event: 'tidewire.gap', data: answer.gap });
    cursor = answer.cursor;
    if (!wait && !answer.more) await pause(POLL_MS, signal);
  }
}

async function webSocket({ channel, since, token, is_admin, signal, listening, heard }) {
  let query = '';
  const protocols = ['tidewire.v1'];
  if (is_admin) {
    const rights = new URLSearchParams([['channel', channel], ['may', 'subscribe'], ['may', 'history'], ['may', 'publish']]);
    const { ticket } = await ask(`/v1/admin/tickets?${rights}`, { method: 'POST', signal });
    query = `?ticket=${ticket}`;
  } else protocols.push(`bearer.${token}`);
  const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws${query}`, protocols);
  signal.addEventListener('abort', () => socket.close(), { once: true });
  await new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify({ type: 'subscribe', channel, since, id: 1 }));
    socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') return heard({ event: '(bytes)', data: `${count(data.size)} bytes` });
      const message = JSON.parse(data);
      if (message.type === 'subscribed') listening();
      else if (message.type === 'event') heard(message);
      else if (message.type === 'error') reject(new Error(message.message));
      else heard({ event: `tidewire.${message.type}`, data: message });
    };
    socket.onclose = ({ code, reason }) => {
      if (signal.aborted) resolve();
      else reject(new Error(code === 1006 ? 'The server refused the WebSocket, or it broke.' : `The server closed it: ${code} ${reason}`));
    };
  });
}

const COLUMNS = [
  { title: 'Received', of: (row) => row.at },
  { title: 'Latency', kind: 'number', of: (row) => (row.latency_ms === null ? '–' : duration(row.latency_ms)) },
  { title: 'Name', kind: 'name', of: (row) => row.name },
  { title: 'Key', kind: 'name', of: (row) => row.key },
  { title: 'Data', kind: 'data', of: (row) => row.data },
  { title: 'Id', kind: 'name', of: (row) => row.id },
];

export function createConsole({ onRefused }) {
  const form = find('[data-listen-form]');
  const state = find('[data-listen-state]');
  const publish_result = find('[data-publish-result]');
  let rows = [];
  let heard_count = 0;
  let running = null;

  const show = (name, text = name) => {
    state.dataset.listenState = name;
    setText(state, text);
    find('[data-stop]').disabled = running === null;
  };

  function heard(event) {
    heard_count += 1;
    const latency_ms = event.time ? Math.max(0, Date.now() - Date.parse(event.time)) : null;
    const data = event.data_base64 === undefined ? JSON.stringify(event.data) : `base64: ${event.data_base64}`;
    rows.unshift({ at: new Date().toLocaleTimeString('en-GB'), latency_ms, name: event.event ?? '', key: event.key ?? '', data: data.slice(0, 1000), id: event.id ?? '' });
    rows = rows.slice(0, SHOWN_MAX);
    draw();
  }

  function draw() {
    fillTable(find('[data-events]'), COLUMNS, rows, 'Listen to a channel, then publish something to it.');
    setText(find('[data-events-count]'), heard_count === 0 ? 'none yet' : `${count(heard_count)}, the newest first`);
  }

  function stop() {
    running?.abort();
    running = null;
    show('stopped');
  }

  async function listen() {
    stop();
    [rows, heard_count] = [[], 0];
    draw();
    const mine = new AbortController();
    running = mine;
    const typed = find('#token').value.trim();
    const options = {
      channel: find('#channel').value.trim(),
      since: find('#since').value,
      token: typed || key.get(),
      is_admin: typed === '',
      signal: mine.signal,
      listening: () => running === mine && show('listening'),
      heard: (event) => running === mine && heard(event),
    };
    show('connecting');
    try {
      await TRANSPORTS[new FormData(form).get('transport')](options);
    } catch (error) {
      if (running !== mine) return;
      running = null;
      show('failed');
      if (!(options.is_admin && onRefused(error))) say(publish_result, error.message, 'bad');
    }
  }

  async function publish() {
    const channel = find('#channel').value.trim();
    const headers = {};
    for (const [field, id] of [['Content-Type', '#content-type'], ['Tidewire-Event', '#name'], ['Tidewire-Key', '#event-key']]) {
      const value = find(id).value.trim();
      if (value) headers[field] = fieldValue(value);
    }
    const typed = find('#token').value.trim();
    try {
      const path = `/v1/channels/${encodeURIComponent(channel)}/events`;
      const body = new Blob([find('#data').value]);
      const { id } = await ask(path, { method: 'POST', headers, body, token: typed || key.get() });
      say(publish_result, `Published as ${id}.`, 'good');
    } catch (error) {
      say(publish_result, error.message, 'bad');
    }
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    listen();
  });
  find('[data-stop]').addEventListener('click', stop);
  find('[data-publish-form]').addEventListener('submit', (event) => {
    event.preventDefault();
    publish();
  });
  draw();
  return { stop };
}
