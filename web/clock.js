// Owns: what time it is, and how long ago the server sent something.
// Must not know: transports, statistics, the page.

// performance.now() resolves 0.1 ms where Date.now() has whole milliseconds, but it stands still while the
// machine sleeps and does not follow corrections of the system's clock; so it is anchored anew when the two part.
let anchor_ms = performance.timeOrigin;
let behind_ms = 0;
let last_beat_ms = performance.now();
let visible_since_ms = document.hidden ? Infinity : -Infinity;

const DRIFT_MS_MAX = 3;
const BEAT_MS = 1000;
const SETTLE_MS = 1500;

export function now() {
  return anchor_ms + performance.now();
}

/**
 * Milliseconds from `sent_ms` (the server's clock) until now (ours). An event cannot arrive before it was sent:
 * if it seems so, our clock is behind by at least that much, and that much is added from then on.
 */
export function latencySince(sent_ms) {
  const latency_ms = now() - sent_ms + behind_ms;
  if (latency_ms >= 0) return latency_ms;
  behind_ms -= latency_ms;
  return 0;
}

/** How far this machine's clock was found to be behind the server's. */
export function clockBehind() {
  return behind_ms;
}

/** When an event that this page sends says it was sent, in the server's clock as far as we know it. */
export function sendingTime() {
  return now() + behind_ms;
}

/** False while the browser holds our timers back (hidden tab, sleeping machine): what is timed then says nothing. */
export function isAttentive() {
  const at_ms = performance.now();
  return at_ms - last_beat_ms < 3 * BEAT_MS && at_ms - visible_since_ms > SETTLE_MS;
}

setInterval(() => {
  last_beat_ms = performance.now();
  // Date.now() is cut to the millisecond, so on average it is half of one early.
  const drift_ms = Date.now() + 0.5 - now();
  if (Math.abs(drift_ms) > DRIFT_MS_MAX) anchor_ms += drift_ms;
}, BEAT_MS);

document.addEventListener('visibilitychange', () => {
  visible_since_ms = document.hidden ? Infinity : performance.now();
});
