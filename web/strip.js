// Owns: the live strip of one transport: a minute of arrivals, requests and outages on a canvas.
// Must not know: transports, how the marks came about.

const WINDOW_MS = 60_000;
const LANE_HEIGHT = 12;
const LATENCY_MS_MIN = 0.1;
const LATENCY_MS_MAX = 10_000;
const GRID = [[1, '1 ms'], [10, '10'], [100, '100'], [1000, '1 s']];
const LABEL_WIDTH = 28;

export function createStrip(canvas) {
  const context = canvas.getContext('2d');
  let width = 0;
  let height = 0;
  let colors = {};

  function restyle() {
    // Canvas knows no custom properties; they are read when the theme changes, not for each frame.
    const style = getComputedStyle(canvas);
    const read = (name) => style.getPropertyValue(name).trim();
    colors = {
      tone: read('--tone'),
      ink: read('--ink-soft'),
      line: read('--line'),
      outage: read('--outage'),
      note: read('--note'),
    };
  }

  new ResizeObserver(([{ contentRect }]) => {
    ({ width, height } = contentRect);
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    restyle();
  }).observe(canvas);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', restyle);

  const floor = () => height - LANE_HEIGHT - 2;
  const xOf = (at_ms, now_ms) => LABEL_WIDTH + (width - LABEL_WIDTH) * (1 - (now_ms - at_ms) / WINDOW_MS);

  /** Logarithmic: a millisecond and a second must both be seen, and told apart. */
  function yOf(latency_ms) {
    const clamped = Math.min(LATENCY_MS_MAX, Math.max(LATENCY_MS_MIN, latency_ms));
    const share = Math.log(clamped / LATENCY_MS_MIN) / Math.log(LATENCY_MS_MAX / LATENCY_MS_MIN);
    return floor() - share * (floor() - 5);
  }

  function drawGrid() {
    context.font = '10px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.fillStyle = colors.ink;
    context.strokeStyle = colors.line;
    context.lineWidth = 1;
    for (const [latency_ms, label] of GRID) {
      const y = Math.round(yOf(latency_ms)) + 0.5;
      context.beginPath();
      context.moveTo(LABEL_WIDTH, y);
      context.lineTo(width, y);
      context.stroke();
      context.fillText(label, 0, y);
    }
  }

  function drawOutages(outages, now_ms) {
    context.fillStyle = colors.outage;
    for (const { from_ms, to_ms } of outages) {
      const from_x = Math.max(LABEL_WIDTH, xOf(from_ms, now_ms));
      const to_x = Math.min(width, xOf(Math.min(to_ms, now_ms), now_ms));
      if (to_x > from_x) context.fillRect(from_x, 0, to_x - from_x, height);
    }
  }

  function drawArrival({ at_ms, latency_ms, is_note, is_replay }, now_ms) {
    const x = xOf(at_ms, now_ms);
    const y = yOf(latency_ms ?? LATENCY_MS_MIN);
    const color = is_note ? colors.note : colors.tone;
    context.strokeStyle = context.fillStyle = color;
    context.globalAlpha = 0.35;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, floor());
    context.lineTo(x, y);
    context.stroke();
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(x, y, is_note ? 3.2 : 2.2, 0, 2 * Math.PI);
    if (is_replay) {
      context.lineWidth = 1.3;
      context.stroke();
    } else {
      context.fill();
    }
  }

  function drawRequests(requests, now_ms) {
    context.fillStyle = colors.ink;
    for (const at_ms of requests) {
      const x = xOf(at_ms, now_ms);
      if (x >= LABEL_WIDTH) context.fillRect(x - 0.5, height - LANE_HEIGHT + 4, 1, LANE_HEIGHT - 5);
    }
  }

  return {
    draw({ arrivals, requests, outages }, now_ms) {
      if (width === 0) return;
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      context.clearRect(0, 0, width, height);
      drawOutages(outages, now_ms);
      drawGrid();
      for (const arrival of arrivals) {
        if (now_ms - arrival.at_ms < WINDOW_MS) drawArrival(arrival, now_ms);
      }
      drawRequests(requests, now_ms);
    },
  };
}
