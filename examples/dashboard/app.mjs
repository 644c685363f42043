// The application of the dashboard: a market of 200 symbols whose prices walk at random, some thousand ticks a second
// over one WebSocket. Each tick has its symbol as the key, so that the channel's state is the latest of each.
import WebSocket from 'ws';

const SYMBOLS = 200;
const TICKS_PER_SECOND = 3000;
const STEP_MS = 20;
/** Ticks that Tidewire has yet to confirm; beyond, some are left out rather than queued. */
const WAITING_MAX = 5000;
const RECONNECT_MS = 300;

const nameOf = (number) => String.fromCharCode(...[number / 26, number % 26].map((part) => 65 + Math.floor(part))) + 'X';

export function routes({ tidewire, adminKey }) {
  const prices = Array.from({ length: SYMBOLS }, () => 20 + Math.random() * 200);
  let isPaused = false;
  let isStopped = false;
  let socket;
  let waiting = 0;

  function connect() {
    if (isStopped) return;
    waiting = 0;
    socket = new WebSocket(`${tidewire.url.replace('http', 'ws')}/v1/ws`, { headers: { Authorization: `Bearer ${adminKey}` } });
    socket.on('message', (text) => {
      const message = JSON.parse(text);
      if (message.type === 'error') console.error(`a tick was refused: ${message.message}`);
      waiting--;
    });
    socket.on('error', () => {});
    socket.on('close', () => setTimeout(connect, RECONNECT_MS));
  }

  function tick() {
    const number = Math.floor(Math.random() * SYMBOLS);
    prices[number] = Math.max(1, prices[number] * (1 + (Math.random() - 0.5) * 0.004));
    waiting++;
    const data = { price: Number(prices[number].toFixed(2)) };
    socket.send(JSON.stringify({ type: 'publish', channel: 'market', key: nameOf(number), data }));
  }

  connect();
  const timer = setInterval(() => {
    if (isPaused || socket.readyState !== WebSocket.OPEN) return;
    for (let count = (TICKS_PER_SECOND * STEP_MS) / 1000; count > 0 && waiting < WAITING_MAX; count--) tick();
  }, STEP_MS);
  routes.stop = () => {
    isStopped = true;
    clearInterval(timer);
    socket.terminate();
  };

  return {
    'POST /pause': ({ body }) => {
      isPaused = Boolean(body.paused);
      return { body: { paused: isPaused } };
    },
  };
}
