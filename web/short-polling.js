// Owns: short polling: ask once a second, get what is new or a 304.
// Must not know: statistics, the page. (The loop is polling.js.)

import { createPolling } from './polling.js';

const INTERVAL_MS = 1000;

export function createShortPolling({ channel }) {
  return createPolling({
    path: `/v1/channels/${channel}/events`,
    query: {},
    timeout_ms: 10_000,
    // One second on average, but not on the dot: with a fixed beat all clients of a page would ask together, and
    // this one would stay at one phase of the server's own beat and show one latency instead of the spread.
    pause_ms: () => INTERVAL_MS * (0.8 + 0.4 * Math.random()),
  });
}
