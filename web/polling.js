// Owns: the loop that both kinds of polling share: ask from a cursor, deliver, ask again; backoff on errors.
// Must not know: statistics, the page, or how the two kinds differ beyond `query` and `pause_ms`.
//
// Every transport is { start({ since, onEvent, onGap, onState, onTraffic }), stop() }:
//   onEvent({ id, name, data })        one event, in the log's order
//   onGap({ requested, resumed_from }) the log does not reach back to where we stood
//   onState('open' | 'waiting' | 'refused', detail)
//   onTraffic({ requests, sent, received })  counts to add; each may be left out
//   stop()                             closes for real and returns the cursor to go on from

import { createBackoff, sleep } from './backoff.js';
import { ProblemError, request } from './http.js';

export function createPolling({ path, query, pause_ms, timeout_ms }) {
  let controller = null;
  let cursor = null;

  async function run(callbacks, signal) {
    const backoff = createBackoff();
    let etag = null;
    while (!signal.aborted) {
      try {
        const asked = cursor;
        const answer = await ask(asked, etag, callbacks, signal);
        if (signal.aborted) return;
        backoff.reset();
        callbacks.onState('open');
        if (answer.json) deliver(answer.json, callbacks, signal);
        // An ETag speaks of one URL, so it is worth nothing once the cursor in that URL has moved.
        etag = cursor === asked ? (answer.headers.get('etag') ?? etag) : null;
        // `more` means that the answer was cut at its limit: the rest is there, so no pause.
        const delay_ms = answer.json?.more ? 0 : pause_ms(answer.json?.events.length ?? 0);
        if (delay_ms > 0) await sleep(delay_ms, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ProblemError && error.is_final) return callbacks.onState('refused', error.message);
        callbacks.onState('waiting', error.message);
        await sleep(backoff.next(error.retry_after_ms), signal).catch(() => {});
      }
    }
  }

  function ask(since, etag, { onTraffic }, signal) {
    return request(`${path}?${new URLSearchParams({ since, ...query })}`, {
      headers: etag ? { 'If-None-Match': etag } : {},
      // A connection that died without a word (a slept laptop) would hold the loop for ever.
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeout_ms)]),
      onTraffic,
    });
  }

  function deliver({ events, gap, cursor: next }, { onGap, onEvent }, signal) {
    if (gap) onGap(gap);
    for (const { id, event, data, data_base64 } of events) {
      // A callback may stop us; what is not delivered then must be read again.
      if (signal.aborted) return;
      cursor = id;
      onEvent({ id, name: event, data: data ?? data_base64 });
    }
    cursor = next;
  }

  return {
    start({ since, ...callbacks }) {
      cursor = since;
      controller = new AbortController();
      run(callbacks, controller.signal);
    },
    stop() {
      controller?.abort();
      return cursor;
    },
  };
}
