// Every bound of the client, in one place, with what happens beyond it. Must not know who reads it.

/** First delay of the exponential backoff, before jitter; doubled with each failure. */
export const backoffBaseMs = 500;
/** No delay of the client's own choice is longer. */
export const backoffMaxMs = 30_000;
/** The longest delay after so many failures; what is waited is any part of it, so that clients do not come together. */
export function backoffMs(failures: number): number {
  return Math.min(backoffMaxMs, backoffBaseMs * 2 ** failures);
}
/** No wait that a server asks for is believed beyond this. */
export const serverDelayMaxMs = 600_000;
/** A connection that lasted this long starts the backoff anew. */
export const stableMs = 10_000;
/** Without a sign that the path carries data within this time it counts as bad. */
export const welcomeTimeoutMs = 10_000;
/** A WebSocket that was silent for this long is asked for a `pong`: pings of the protocol itself stay invisible to pages. */
export const pingAfterMs = 20_000;
/** Time for the `pong`. */
export const pongTimeoutMs = 10_000;
/** An event stream without even a heartbeat (every 25 s by default) for this long is dead. */
export const streamSilenceMs = 60_000;
/** An `EventSource` shows no heartbeats: after a silence this long it is opened anew, just in case. */
export const eventSourceSilenceMs = 300_000;
/** How long the server may hold a long poll, in seconds. */
export const pollWaitSeconds = 25;
/** Pause between two short polls. */
export const pollIntervalMs = 2_000;
/** An answer to a request that is not held; else it failed. */
export const requestTimeoutMs = 15_000;
/** This many failures in a row before any data, and the next transport is tried. */
export const pathFailuresMax = 2;
/** How long a bad transport is left alone; doubled each time up to the maximum. */
export const pathBadMs = 60_000;
export const pathBadMaxMs = 600_000;
/** The clock is looked at this often, to notice that the machine slept. */
export const tickMs = 5_000;
/** Wall and monotonic time this far apart: it slept. */
export const clockJumpMs = 5_000;
/** A timer later than this: it slept. Background tabs run timers once a minute, which is no sleep. */
export const timerLateMs = 90_000;
/** A timer later than this judges no silence: what came meanwhile may not be read yet. */
export const timerSluggishMs = 2_000;
/** Ids remembered for each channel, to drop what comes twice; older ones are forgotten. */
export const recentIdsMax = 1_024;
/** Publishes that wait; beyond it `publish` rejects with `queue_full`. */
export const publishQueueMax = 1_000;
/** Attempts for one publish while the server answers with faults of its own; then it rejects. Being offline is no attempt. */
export const publishAttemptsMax = 20;
/** Events that an async iterator holds for a slow reader; beyond it the iterator throws `slow_reader`. */
export const iteratorQueueMax = 10_000;
/** Channels of one HTTP request, as in the protocol; beyond it only WebSocket serves. */
export const requestChannelsMax = 100;
/** Characters of one server-sent event; a longer one ends the stream. */
export const streamBufferMax = 8 * 1024 * 1024;
