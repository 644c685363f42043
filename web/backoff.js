// Owns: how long to wait before trying again.
// Must not know: what is tried.

const BASE_MS = 500;
const CAP_MS = 10_000;

/**
 * Exponential backoff with full jitter: a uniformly random wait below a bound that doubles. Random over the whole
 * range, because clients that lost one server at one moment must not come back at one moment.
 */
export function createBackoff() {
  let attempts = 0;
  return {
    /** `at_least_ms` is what the server asked for (Retry-After); jitter comes on top of it. */
    next(at_least_ms = 0) {
      const bound_ms = Math.min(CAP_MS, BASE_MS * 2 ** attempts);
      attempts += 1;
      return at_least_ms + Math.random() * bound_ms;
    },
    reset() {
      attempts = 0;
    },
  };
}

/**
 * Calls back after the time, or as soon as this machine is back on the network: a wait that grew while the cable was
 * out says nothing about the server. Returns what cancels it.
 */
export function retryAfter(delay_ms, callback) {
  const cancel = () => {
    clearTimeout(timer);
    removeEventListener('online', now);
  };
  const now = () => {
    cancel();
    callback();
  };
  const timer = setTimeout(now, delay_ms);
  addEventListener('online', now);
  return cancel;
}

/** The same as a promise, which rejects as soon as the signal aborts. */
export function sleep(delay_ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const aborted = () => {
      cancel();
      reject(signal.reason);
    };
    const cancel = retryAfter(delay_ms, () => {
      signal?.removeEventListener('abort', aborted);
      resolve();
    });
    signal?.addEventListener('abort', aborted, { once: true });
  });
}

/** `after_ms` of a reconnect notice: a number, or a window [from, to] in which each client picks its own moment. */
export function pickDelay(after_ms) {
  if (!Array.isArray(after_ms)) return Number(after_ms) || 0;
  const [from_ms, to_ms] = after_ms;
  return from_ms + Math.random() * (to_ms - from_ms);
}
