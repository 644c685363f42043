// Owns: how long to wait before trying again.
// Must not know: what is tried.

const BASE_MS = 500;
const CAP_MS = 15_000;

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

/** Resolves after the time, or rejects as soon as the signal aborts. */
export function sleep(delay_ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const aborted = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', aborted);
      resolve();
    }, delay_ms);
    signal.addEventListener('abort', aborted, { once: true });
  });
}

/** `after_ms` of a reconnect notice: a number, or a window [from, to] in which each client picks its own moment. */
export function pickDelay(after_ms) {
  if (!Array.isArray(after_ms)) return Number(after_ms) || 0;
  const [from_ms, to_ms] = after_ms;
  return from_ms + Math.random() * (to_ms - from_ms);
}
