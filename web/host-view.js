// Owns: the panel with the host's own figures and their two minutes of history.
// Must not know: transports; it is handed samples.

import * as format from './format.js';

const WINDOW_MS = 120_000;
const SAMPLES_MAX = 240;
const WIDTH = 240;
const HEIGHT = 48;
const SVG = 'http://www.w3.org/2000/svg';
// A break in the line where nothing was sampled for this long: a drawn bridge would be invented data.
const HOLE_MS = 5000;

// `lines` are drawn from 0 to `top`, which may depend on the highest value of the window.
const TILES = {
  cpu: {
    lines: [(sample) => sample.cpu_percent],
    top: (peak) => Math.max(10, peak),
    value: (sample) => `${sample.cpu_percent.toFixed(1)} %`,
    aside: (sample, peak) => `peak ${peak.toFixed(0)} % of ${sample.cpus} ${sample.cpus === 1 ? 'core' : 'cores'}`,
  },
  load: {
    lines: [(sample) => sample.load[0]],
    top: (peak) => Math.max(0.5, peak),
    value: (sample) => sample.load[0].toFixed(2),
    aside: (sample) => `5 min ${sample.load[1].toFixed(2)}, 15 min ${sample.load[2].toFixed(2)}`,
  },
  memory: {
    lines: [(sample) => sample.memory.used_bytes],
    top: (peak, sample) => sample.memory.total_bytes,
    value: (sample) => format.memory(sample.memory.used_bytes),
    aside: (sample) => `used of ${format.memory(sample.memory.total_bytes)}`,
  },
  network: {
    lines: [
      (sample) => sample.network.received_bytes_per_second,
      (sample) => sample.network.sent_bytes_per_second,
    ],
    top: (peak) => Math.max(1000, peak),
    value: (sample) => `${format.bytes(sample.network.received_bytes_per_second)}/s in`,
    aside: (sample) => `${format.bytes(sample.network.sent_bytes_per_second)}/s out`,
  },
};

export function createHostView(section) {
  const samples = [];
  const tiles = Object.entries(TILES).map(([name, tile]) => {
    const node = section.querySelector(`[data-tile="${name}"]`);
    const paths = tile.lines.map((_, i) => ['area', 'line'].map((kind) => {
      const path = document.createElementNS(SVG, 'path');
      path.setAttribute('class', `${kind} series-${i}`);
      node.querySelector('svg').append(path);
      return path;
    }));
    return { ...tile, node, paths };
  });

  function add(sample) {
    if (!isSample(sample)) return;
    samples.push(sample);
    if (samples.length > SAMPLES_MAX) samples.shift();
  }

  function draw() {
    const latest = samples.at(-1);
    if (!latest) return;
    section.querySelector('[data-host-name]').textContent = latest.host ?? 'right now';
    const recent = samples.filter((sample) => latest.sent_ms - sample.sent_ms <= WINDOW_MS);
    for (const tile of tiles) drawTile(tile, recent, latest);
  }

  function drawTile({ node, paths, lines, top, value, aside }, recent, latest) {
    const peak = Math.max(...lines.flatMap((read) => recent.map(read)));
    node.querySelector('[data-value]').textContent = value(latest);
    node.querySelector('[data-aside]').textContent = aside(latest, peak);
    lines.forEach((read, i) => {
      const runs = points(recent, read, top(peak, latest), latest.sent_ms);
      const [area, line] = paths[i];
      const closed = (run) => `M${run[0][0]},${HEIGHT}L${run.join('L')}L${run.at(-1)[0]},${HEIGHT}Z`;
      line.setAttribute('d', runs.map((run) => `M${run.join('L')}`).join(''));
      area.setAttribute('d', runs.map(closed).join(''));
    });
  }

  return { add, draw };
}

/** Runs of [x, y], broken at holes. */
function points(recent, read, top, latest_ms) {
  const runs = [];
  let before_ms = -Infinity;
  for (const sample of recent) {
    if (sample.sent_ms - before_ms > HOLE_MS) runs.push([]);
    before_ms = sample.sent_ms;
    const x = WIDTH * (1 - (latest_ms - sample.sent_ms) / WINDOW_MS);
    const y = HEIGHT - 2 - (HEIGHT - 5) * Math.min(1, read(sample) / top);
    runs.at(-1).push([x.toFixed(1), y.toFixed(1)]);
  }
  return runs;
}

/** Anybody may publish on the channel; only what has the shape of a sample is drawn. */
function isSample(data) {
  return Number.isFinite(data?.sent_ms) && Number.isFinite(data.cpu_percent) && Array.isArray(data.load)
    && data.load.length === 3 && Number.isFinite(data.memory?.used_bytes) && Number.isFinite(data.memory.total_bytes)
    && Number.isFinite(data.network?.received_bytes_per_second) && Number.isFinite(data.network.sent_bytes_per_second);
}
