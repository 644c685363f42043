// Owns: what the statistics look like: tiles with their last two minutes, tables and facts.
// Must not know: where statistics come from.

import { fillFacts, fillTable, find, make, setText } from './dom.js';
import { bytes, count, duration, memory, uptime } from './format.js';
import { createSpark } from './spark.js';

const SPAN_SECONDS = 120;

const rate = (value) => {
  if (value === null || value === undefined) return '–';
  return value < 99.95 ? value.toFixed(1) : count(Math.round(value));
};
const perSecond = (value) => (value === null || value === undefined ? '–' : `${bytes(value)}/s`);
const latency = (value) => (value === null || value === undefined ? '–' : duration(value));
const connectionsOf = ({ connections: { websocket, sse, long_poll, http } }) => websocket + sse + long_poll + http;

// `of` is what is drawn: one value, or two.
const TILES = [
  {
    key: 'connections', title: 'Connections', of: (s) => [connectionsOf(s)], value: (s) => count(connectionsOf(s)),
    aside: ({ connections: c }) => `${count(c.websocket)} WebSocket, ${count(c.sse)} SSE, ${count(c.long_poll)} long poll, ${count(c.http)} HTTP`,
  },
  {
    key: 'published', title: 'Published per second', of: (s) => [s.rates?.published ?? null], value: (s) => rate(s.rates?.published),
    aside: (s) => `${count(s.totals.published)} since the start`,
  },
  {
    key: 'delivered', title: 'Delivered per second', of: (s) => [s.rates?.delivered ?? null], value: (s) => rate(s.rates?.delivered),
    aside: (s) => `${count(s.totals.delivered)} since the start`,
  },
  {
    key: 'latency', title: 'Delivery, median', of: (s) => [s.delivery.p50_ms, s.delivery.p99_ms], value: (s) => latency(s.delivery.p50_ms),
    aside: (s) => `95 %: ${latency(s.delivery.p95_ms)}, 99 %: ${latency(s.delivery.p99_ms)}`,
  },
  {
    key: 'bytes', title: 'Bytes out', of: (s) => [s.rates?.written_bytes ?? null, s.rates?.read_bytes ?? null], value: (s) => perSecond(s.rates?.written_bytes),
    aside: (s) => `in: ${perSecond(s.rates?.read_bytes)}`,
  },
  {
    key: 'subscriptions', title: 'Subscriptions', of: (s) => [s.subscriptions], value: (s) => count(s.subscriptions),
    aside: (s) => `${count(s.users)} users, ${count(s.history.channels)} channels`,
  },
];

const CHANNEL_COLUMNS = [
  { title: 'Channel', kind: 'name', of: (row) => row.channel },
  { title: 'Published/s', kind: 'number', of: (row) => rate(row.published_per_second) },
  { title: 'Delivered/s', kind: 'number', of: (row) => rate(row.delivered_per_second) },
  { title: 'Subscribers', kind: 'number', of: (row) => count(row.subscribers) },
  { title: 'Retained', kind: 'number', of: (row) => `${count(row.events)} / ${bytes(row.bytes)}` },
];
const TALKER_COLUMNS = [
  { title: 'Who', kind: 'name', of: (row) => row.name },
  { title: 'Connections', kind: 'number', of: (row) => count(row.connections) },
  { title: 'Messages/s', kind: 'number', of: (row) => rate(row.published_per_second) },
  { title: 'Sent', kind: 'number', of: (row) => count(row.published) },
  { title: 'Received', kind: 'number', of: (row) => count(row.delivered) },
];
const SHARD_COLUMNS = [
  { title: 'Shard', of: ({ number }) => String(number) },
  { title: 'Busy', kind: 'number', of: ({ busy }) => busyBar(busy) },
  { title: 'Connections', kind: 'number', of: ({ connections }) => count(connections) },
  { title: 'Queued', kind: 'number', of: ({ queues }) => count(Object.values(queues).reduce((sum, length) => sum + length, 0)) },
];
const SERVER_COLUMNS = [
  { title: 'Server', kind: 'name', of: (row) => (row.is_this ? `${row.name} (this one)` : row.name) },
  { title: 'State', of: (row) => stateOf(row) },
  { title: 'Version', of: (row) => row.version },
  { title: 'Up', kind: 'number', of: (row) => uptime(row.uptime_seconds) },
  { title: 'Connections', kind: 'number', of: (row) => count(row.connections) },
  { title: 'Published/s', kind: 'number', of: (row) => rate(row.published_per_second) },
  { title: 'Delivered/s', kind: 'number', of: (row) => rate(row.delivered_per_second) },
  { title: 'Processor', kind: 'number', of: (row) => (row.cpu === null ? '–' : `${Math.round(row.cpu * 100)} %`) },
  { title: 'Memory', kind: 'number', of: (row) => memory(row.memory_bytes ?? 0) },
];
// A server says each second how it stands; one that is silent for longer than that is not forgotten at once.
const SILENT_MS = 2_500;
const REFUSED_COLUMNS = [
  { title: 'Why', kind: 'name', of: ([why]) => why },
  { title: 'How often', kind: 'number', of: ([, times]) => count(times) },
];

function busyBar(busy) {
  const bar = make('span', { className: 'bar', 'aria-hidden': 'true' }, make('i'));
  bar.style.setProperty('--part', busy ?? 0);
  if (busy > 0.9) bar.dataset.high = '';
  return make('span', {}, bar, busy === null ? '–' : `${Math.round(busy * 100)} %`.padStart(5, '\u2007'));
}

function stateOf({ backplane_away, draining, heard_ms_ago }) {
  if (heard_ms_ago > SILENT_MS) return make('span', { className: 'alarm' }, 'silent');
  if (backplane_away) return make('span', { className: 'alarm' }, 'backplane away');
  return draining ? 'draining' : 'serving';
}

/** All servers and their sums, where there are others to share with. */
function showCluster({ servers, cluster }) {
  find('[data-cluster]').hidden = !servers;
  if (!servers) return;
  fillTable(find('[data-servers]'), SERVER_COLUMNS, servers, '');
  setText(find('[data-cluster-sums]'), [
    cluster.servers === 1 ? '1 server' : `${count(cluster.servers)} servers`,
    `${count(cluster.connections)} connections`,
    `${rate(cluster.published_per_second)} published and ${rate(cluster.delivered_per_second)} delivered per second`,
    `${memory(cluster.memory_bytes)} of memory`,
  ].join(', '));
}

export function createOverview() {
  const samples = [];
  const tiles = TILES.map((tile) => {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('class', 'spark');
    const value = make('p', { className: 'value' }, '–');
    const aside = make('p', { className: 'aside' });
    find('[data-tiles]').append(make('div', { className: 'tile', 'data-tile': tile.key }, make('h2', {}, tile.title), value, aside, svg));
    return { ...tile, nodes: { value, aside }, spark: createSpark(svg, SPAN_SECONDS) };
  });
  const choices = ['top-channels-by', 'talkers-of', 'talkers-by'].map((name) => find(`[data-${name}]`));
  choices.forEach((choice) => choice.addEventListener('change', () => draw()));

  function draw() {
    const now = samples.at(-1);
    if (!now) return;
    for (const { of, value, aside, nodes, spark } of tiles) {
      setText(nodes.value, value(now));
      setText(nodes.aside, aside(now));
      spark.draw(samples.map((sample) => [sample.server.uptime_seconds, ...of(sample)]));
    }
    const [channels_by, talkers_of, talkers_by] = choices.map((choice) => choice.value);
    fillTable(find('[data-top-channels]'), CHANNEL_COLUMNS, now.top_channels?.[channels_by] ?? [], 'Nothing of the kind on any channel just now.');
    const talkers = now.top_talkers?.[talkers_of]?.[talkers_by] ?? [];
    fillTable(find('[data-talkers]'), TALKER_COLUMNS, talkers, talkers_by === 'messages' ? 'Nobody sends anything on a connection that is open.' : 'Nobody is here.');
    showCluster(now);
    fillTable(find('[data-shards]'), SHARD_COLUMNS, now.shards.map((shard, number) => ({ ...shard, number })), '');
    const refused = [...Object.entries(now.refused_by_code),
      ...Object.entries(now.limited_by).map(([limit, times]) => [`limits.${limit}`, times]),
      ...Object.entries(now.connections.refused).map(([why, times]) => [`connections: ${why}`, times])];
    fillTable(find('[data-refused]'), REFUSED_COLUMNS, refused.filter(([, times]) => times > 0).sort((a, b) => b[1] - a[1]), 'Nothing was refused.');
    fillFacts(find('[data-process]'), processFacts(now));
    const { lag, stall, evicted } = now.slow_by_reason;
    fillFacts(find('[data-trouble]'), [
      ['Behind now', count(now.behind)],
      ['Furthest, in events', count(now.lag_events)],
      ['Gaps told', count(now.totals.gaps)],
      ['Closed: lag', count(lag), lag > 0],
      ['Closed: stalled', count(stall), stall > 0],
      ['Closed: history gone', count(evicted), evicted > 0],
      ['Closed: silent', count(now.totals.silent)],
    ]);
  }

  return {
    add(sample) {
      // A server that started anew counts from 0.
      if (samples.at(-1)?.server.started !== sample.server.started) samples.length = 0;
      samples.push(sample);
      while (samples.length > 1 && sample.server.uptime_seconds - samples[0].server.uptime_seconds > SPAN_SECONDS) samples.shift();
    },
    draw,
  };
}

function processFacts({ server, history, connections }) {
  const part = (value, limit) => (limit ? value / limit : 0);
  const facts = [
    ['Processor', server.cpu === null ? '–' : `${Math.round(server.cpu * 100)} %`],
    ['Memory', memory(server.memory_bytes ?? 0)],
    ['File descriptors', `${count(server.open_fds ?? 0)} of ${count(server.max_fds ?? 0)}`, part(server.open_fds, server.max_fds) > 0.9],
    ['Connections at most', count(connections.limit), part(server.connections, connections.limit) > 0.9],
    ['Events retained', `${count(history.events)} / ${bytes(history.bytes)}`],
    ['In memory', `${bytes(history.memory_bytes)} of ${bytes(history.memory_limit_bytes)}`, part(history.memory_bytes, history.memory_limit_bytes) > 0.9],
  ];
  if (history.disk_bytes !== null) {
    facts.push(['On disk', history.disk_failed ? 'the disk takes nothing' : bytes(history.disk_bytes), history.disk_failed]);
  }
  return facts;
}
