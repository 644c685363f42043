// One WebSocket for all channels. Frames only: what to subscribe to is said by the session, message by message.
import { TidewireError } from '../types';
import type { LinkMessage } from '../types';
import { ask, asError, ticketed } from './link';
import type { Environment, OpenLink, SocketLike } from './link';
import { event, gaps } from './wire';
import type { WireEvent, WireGap } from './wire';

export const openWebSocket: OpenLink = (environment, _wants, sink) => {
  let socket: SocketLike | undefined;
  let over = false;
  const end = (message: Extract<LinkMessage, { type: 'closed' }>) => {
    if (!over) sink.message(message);
    over = true;
  };
  dial(environment).then(
    (made) => {
      socket = made;
      if (over) return socket.close(1000);
      socket.onopen = () => over || sink.open();
      socket.onmessage = ({ data }: { data: unknown }) => {
        if (over) return;
        try {
          for (const message of read(data)) if (!over) sink.message(message);
        } catch {
          end({ type: 'closed', error: new TidewireError('not_tidewire', 'what came is no message of a Tidewire server') });
          socket!.close(1000);
        }
      };
      socket.onclose = ({ code }: { code: number }) => end({ type: 'closed', code });
      socket.onerror = () => {};
    },
    (error: unknown) => end({ type: 'closed', error: asError(error) }),
  );
  return {
    send: (message) => socket?.send(JSON.stringify(message)),
    close: () => {
      over = true;
      socket?.close(1000);
    },
  };
};

async function dial(environment: Environment): Promise<SocketLike> {
  const path = '/v1/ws';
  const token = await ask(environment.token);
  const url = token ? environment.url + path : (await ticketed(environment, path)).href;
  const protocols = token ? ['tidewire.v1', `bearer.${token}`] : ['tidewire.v1'];
  const socket = new environment.WebSocket!(url.replace(/^http/, 'ws'), protocols);
  socket.binaryType = 'arraybuffer';
  return socket;
}

/** The server's messages that take another form here; all others are passed on as they are. */
type Wire =
  | { type: 'event' } & WireEvent
  | { type: 'gap' } & WireGap
  | { type: 'snapshot'; channel: string; cursor: string; state: unknown }
  | { type: 'reconnect'; after_ms: [number, number] }
  | Extract<LinkMessage, { type: 'subscribed' | 'unsubscribed' | 'expired' | 'error' }>;

function read(data: unknown): LinkMessage[] {
  if (typeof data !== 'string') return [{ type: 'event', event: binary(new Uint8Array(data as ArrayBuffer)) }];
  const message = JSON.parse(data) as Wire;
  switch (message.type) {
    case 'event':
      return [{ type: 'event', event: event(message) }];
    case 'gap':
      return gaps(message);
    case 'snapshot':
      return [{ type: 'snapshot', snapshot: { channel: message.channel, cursor: message.cursor, state: message.state } }];
    case 'reconnect':
      return [{ type: 'reconnect', afterMs: message.after_ms }];
    default:
      // Of those that it does not know the session takes no more than the sign of life.
      return [message];
  }
}

/** Section 3.1 of the protocol. */
function binary(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder();
  let at = 1;
  const string = (width: 1 | 2) => {
    const length = width === 1 ? view.getUint8(at) : view.getUint16(at);
    at += width + length;
    if (at > bytes.length) throw new RangeError('a string ends beyond the frame');
    return text.decode(bytes.subarray(at - length, at));
  };
  if (view.getUint8(0) !== 1) throw new RangeError('the frame is of an unknown kind');
  const [channel, id, name, key, type] = [string(1), string(1), string(1), string(2), string(1)];
  const time = new Date(Number(view.getBigUint64(at))).toISOString();
  const data = bytes.slice(at + 8);
  return { channel, id, time, data, ...(name && { event: name }), ...(key && { key }), ...(type && { contentType: type }) };
}
