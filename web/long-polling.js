// Owns: long polling: ask, be held until there is something, ask again at once.
// Must not know: statistics, the page. (The loop is polling.js.)

import { createPolling } from './polling.js';

const WAIT_S = 25;
const EMPTY_PAUSE_MS = 500;

export function createLongPolling({ channel }) {
  return createPolling({
    path: `/v1/channels/${channel}/events`,
    query: { wait: WAIT_S },
    timeout_ms: (WAIT_S + 10) * 1000,
    // Empty answers come once in 25 s; should something between us and the server not hold them, do not flood it.
    pause_ms: (event_count) => (event_count > 0 ? 0 : EMPTY_PAUSE_MS),
  });
}
