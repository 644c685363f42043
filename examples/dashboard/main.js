// The page of the dashboard. Ticks go into a table of prices as they come; what is seen changes once for each frame,
// however many there were, and only where something did.
import { Tidewire } from '/client/index.js';
import uPlot from '/modules/uplot/dist/uPlot.esm.js';

const CHART_POINTS = 600;
const element = (id) => document.getElementById(id);

const prices = new Map();
const cells = new Map();
const changed = new Set();
let chosen;
let [ticks, frames] = [0, 0];
let points = [[], []];

const chart = new uPlot({
  width: element('chart').clientWidth,
  height: 220,
  series: [{}, { label: 'price', stroke: '#2563eb', width: 1.5 }],
  scales: { x: { time: true } },
  legend: { show: false },
}, points, element('chart'));
addEventListener('resize', () => chart.setSize({ width: element('chart').clientWidth, height: 220 }));

function choose(symbol) {
  cells.get(chosen)?.button.setAttribute('aria-pressed', 'false');
  chosen = symbol;
  cells.get(symbol).button.setAttribute('aria-pressed', 'true');
  element('chosen').textContent = symbol;
  points = [[], []];
}

/** The symbols' cells, in order; a new one is rare. */
function cellOf(symbol) {
  const known = cells.get(symbol);
  if (known) return known;
  const button = document.createElement('button');
  button.dataset.symbol = symbol;
  button.setAttribute('aria-pressed', 'false');
  const price = document.createElement('span');
  button.append(symbol, price);
  button.onclick = () => choose(symbol);
  const next = [...cells.keys()].sort().find((other) => other > symbol);
  element('symbols').insertBefore(button, next ? cells.get(next).button : null);
  const cell = { button, price, shown: 0 };
  cells.set(symbol, cell);
  return cell;
}

function take(symbol, price) {
  prices.set(symbol, price);
  changed.add(symbol);
}

function paint() {
  requestAnimationFrame(paint);
  frames++;
  for (const symbol of changed) {
    const cell = cellOf(symbol);
    const price = prices.get(symbol);
    cell.button.className = price >= cell.shown ? 'up' : 'down';
    cell.price.textContent = price.toFixed(2);
    cell.shown = price;
  }
  changed.clear();
  if (!chosen && cells.size > 0) choose([...cells.keys()].sort()[0]);
  if (!chosen) return;
  points[0].push(Date.now() / 1000);
  points[1].push(prices.get(chosen));
  if (points[0].length > CHART_POINTS) points.forEach((series) => series.shift());
  chart.setData(points);
}

function count() {
  element('ticks').textContent = ticks;
  element('frames').textContent = frames;
  [ticks, frames] = [0, 0];
}

element('pause').onclick = async (event) => {
  const paused = event.target.getAttribute('aria-pressed') !== 'true';
  const body = JSON.stringify({ paused });
  await fetch('/pause', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  event.target.setAttribute('aria-pressed', String(paused));
};

const { tidewire } = await (await fetch('/settings.json')).json();
const client = new Tidewire(tidewire, {
  onState: (state) => {
    element('state').dataset.state = state;
    element('state').textContent = state === 'open' ? 'live' : 'reconnecting…';
  },
});
client.channel('market').subscribe({
  snapshot: true,
  onSnapshot: ({ state }) => state.forEach(({ key, data }) => take(key, data.price)),
  onEvent: ({ key, data }) => {
    ticks++;
    take(key, data.price);
  },
});
setInterval(count, 1000);
paint();
