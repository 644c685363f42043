// Owns: server-sent events through the browser's own EventSource.
// Must not know: statistics, the page. (The interface is described in polling.js.)

import { createBackoff, retryAfter } from './backoff.js';
import { requestHeadLength, sseEventLength, sseOpeningLength } from './wire-size.js';

/** EventSource hears only the event names it asks for. `message` is an event without a name. */
export function createEventSource({ channel, names }) {
  const path = `/v1/channels/${channel}/events`;
  let source = null;
  let cancel_retry = () => {};
  let cursor = null;
  const backoff = createBackoff();

  function open(callbacks) {
    // A new EventSource cannot send Last-Event-ID, so `since` says where to begin. When the browser reconnects by
    // itself it sends that header, and the header wins over the `since` that is still in the URL.
    const url = `${path}?${new URLSearchParams({ since: cursor })}`;
    source = new EventSource(url);
    countAttempt(url, callbacks);

    source.onopen = (event) => {
      // An event that someone named "open" or "error" comes through here as well.
      if (event instanceof MessageEvent) return;
      backoff.reset();
      callbacks.onTraffic({ received: sseOpeningLength(cursor) });
      callbacks.onState('open');
    };
    source.onerror = (event) => {
      if (event instanceof MessageEvent) return;
      if (source.readyState === EventSource.CONNECTING) {
        // The browser reconnects by itself, after the `retry:` that the server gave.
        countAttempt(url, callbacks);
        callbacks.onState('waiting', 'The stream ended; the browser reconnects by itself.');
        return;
      }
      // It gives up for good on any answer but 200, such as the 503 of a server that is still starting.
      callbacks.onState('waiting', 'The stream was refused.');
      cancel_retry = retryAfter(backoff.next(), () => open(callbacks));
    };
    for (const name of names) source.addEventListener(name, (event) => deliver(name, event, callbacks));
    source.addEventListener('tidewire.gap', (event) => {
      cursor = event.lastEventId || cursor;
      callbacks.onTraffic({ received: sseEventLength(event.type, event.data, event.lastEventId) });
      callbacks.onGap(JSON.parse(event.data));
    });
  }

  function countAttempt(url, { onTraffic }) {
    onTraffic({ requests: 1, sent: requestHeadLength('GET', url, { Accept: 'text/event-stream' }) });
  }

  function deliver(name, event, { onEvent, onTraffic }) {
    const sent_name = name === 'message' ? undefined : name;
    cursor = event.lastEventId;
    onTraffic({ received: sseEventLength(sent_name, event.data, cursor) });
    onEvent({ id: cursor, name: sent_name, data: parsed(event.data) });
  }

  return {
    start({ since, ...callbacks }) {
      cursor = since;
      open(callbacks);
    },
    stop() {
      cancel_retry();
      source?.close();
      return cursor;
    },
  };
}

/** SSE carries the event's text as it is; whether it was JSON is for the reader to know. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
