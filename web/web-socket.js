// Owns: the WebSocket transport (PROTOCOL.md section 3): subscribe, liveness, reconnecting.
// Must not know: statistics, the page. (The interface is described in polling.js.)

import { createBackoff, pickDelay, retryAfter } from './backoff.js';
import { utf8Length, webSocketFrameLength, webSocketHandshakeLength } from './wire-size.js';

const PATH = '/v1/ws';
const PROTOCOL = 'tidewire.v1';
// A page cannot see the server's pings. Silence for this long is answered with a ping of our own, twice as long
// with nothing at all means that the connection is dead (a slept laptop, a router that forgot it).
const SILENCE_MS_MAX = 15_000;
// PROTOCOL.md section 5: the same again would be refused again.
const FINAL_CLOSE_CODES = new Set([1002, 1007, 1008, 1009]);
const EVENT_FRAME = 0x01;

export function createWebSocket({ channel }) {
  let socket = null;
  let cancel_retry = () => {};
  let liveness_timer = null;
  let cursor = null;
  let asked_delay_ms = 0;
  const backoff = createBackoff();

  function open(callbacks) {
    const url = new URL(PATH, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    const current = new WebSocket(url, PROTOCOL);
    const handshake = webSocketHandshakeLength(PATH, PROTOCOL);
    let heard_ms = performance.now();
    socket = current;
    socket.binaryType = 'arraybuffer';
    callbacks.onTraffic({ requests: 1, sent: handshake.sent });

    const send = (message) => {
      const text = JSON.stringify(message);
      current.send(text);
      callbacks.onTraffic({ sent: webSocketFrameLength(utf8Length(text), { masked: true }) });
    };
    current.onopen = () => {
      callbacks.onTraffic({ received: handshake.received });
      send({ type: 'subscribe', channel, since: cursor, id: 1 });
    };
    current.onmessage = ({ data }) => {
      heard_ms = performance.now();
      const length = typeof data === 'string' ? utf8Length(data) : data.byteLength;
      callbacks.onTraffic({ received: webSocketFrameLength(length) });
      receive(typeof data === 'string' ? JSON.parse(data) : decodeEvent(data), callbacks);
    };
    current.onclose = ({ code, reason }) => {
      lost(callbacks, code, reason);
    };
    liveness_timer = setInterval(() => {
      const silence_ms = performance.now() - heard_ms;
      if (silence_ms > 2 * SILENCE_MS_MAX) lost(callbacks, 4002, 'no sign of life');
      else if (silence_ms > SILENCE_MS_MAX && current.readyState === WebSocket.OPEN) send({ type: 'ping' });
    }, SILENCE_MS_MAX / 2);
  }

  function receive(message, callbacks) {
    switch (message.type) {
      case 'subscribed':
        backoff.reset();
        cursor = message.cursor;
        callbacks.onState('open');
        break;
      case 'event':
        cursor = message.id;
        callbacks.onEvent({ id: message.id, name: message.event, data: message.data ?? message.data_base64 });
        break;
      case 'gap':
        callbacks.onGap(message);
        break;
      case 'reconnect':
        // The server goes away soon and says when to come back; the close that follows starts the wait.
        asked_delay_ms = pickDelay(message.after_ms);
        break;
      case 'error':
        discard();
        callbacks.onState('refused', message.message);
    }
  }

  function lost(callbacks, code, reason) {
    discard();
    if (FINAL_CLOSE_CODES.has(code)) return callbacks.onState('refused', reason || `Closed with ${code}.`);
    callbacks.onState('waiting', reason || 'The connection was lost.');
    cancel_retry = retryAfter(asked_delay_ms || backoff.next(), () => open(callbacks));
    asked_delay_ms = 0;
  }

  /** Closes without waiting for the peer's consent: a dead peer would keep us waiting for minutes. */
  function discard() {
    clearInterval(liveness_timer);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
    socket = null;
  }

  return {
    start({ since, ...callbacks }) {
      cursor = since;
      backoff.reset();
      open(callbacks);
    },
    stop() {
      cancel_retry();
      discard();
      return cursor;
    },
  };
}

/** PROTOCOL.md 3.1. The payload itself is of no use to this page; id and name keep the log whole. */
function decodeEvent(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes[0] !== EVENT_FRAME) return { type: 'unknown' };
  const decoder = new TextDecoder();
  let at = 1;
  const string = () => {
    const length = bytes[at];
    at += 1 + length;
    return decoder.decode(bytes.subarray(at - length, at));
  };
  string(); // the channel: there is but one
  const id = string();
  const event = string() || undefined;
  return { type: 'event', id, event, data: null };
}
