// The words that the parts of the client share, and those of the wire. Must not know how anything is done.

/** One event of a channel. */
export interface TidewireEvent {
  channel: string;
  /** Opaque; give it as `since` to go on right after this event. */
  id: string;
  /** RFC 3339, UTC. */
  time: string;
  event?: string;
  key?: string;
  /** A JSON value, a string for text, or a `Uint8Array` for bytes. */
  data: unknown;
  contentType?: string;
}

/** Events between `requested` and `resumedFrom` are lost to this subscriber. */
export interface Gap { channel: string; requested: string; resumedFrom: string }

/** A channel's state, complete up to `cursor`. */
export interface Snapshot { channel: string; cursor: string; state: unknown }

/** What is worth telling a user about the connection. */
export type ConnectionState = 'idle' | 'connecting' | 'open' | 'waiting' | 'closed' | 'failed';

/** `subscribed` once events flow, `waiting` while there is no connection, `failed` for good. */
export type SubscriptionState = 'waiting' | 'subscribed' | 'failed' | 'closed';

/** `shared` is a connection of another tab (`tidewire/shared`). */
export type TransportName = 'shared' | 'websocket' | 'sse' | 'eventsource' | 'longpoll' | 'poll';

/** What went wrong, by the server's error code or one of the client's own. */
export class TidewireError extends Error {
  /** `status` is of HTTP, 0 where there was no answer; `retryAfterMs` is how long the server asks to wait. */
  constructor(readonly code: string, message: string, readonly status = 0, readonly retryAfterMs?: number) {
    super(message);
    this.name = 'TidewireError';
  }
}

/** What any transport tells the session, in one form. */
export type LinkMessage =
  | { type: 'alive' }
  | { type: 'subscribed'; channel: string; cursor: string; id?: string | number }
  | { type: 'position'; cursor: string }
  | { type: 'event'; event: TidewireEvent; cursor?: string }
  | { type: 'gap'; gap: Gap }
  | { type: 'snapshot'; snapshot: Snapshot }
  | { type: 'reconnect'; afterMs: [number, number] }
  | { type: 'expired' }
  | { type: 'unsubscribed'; channel: string; id?: string | number }
  | { type: 'error'; code: string; message: string; id?: string | number; channel?: string }
  | { type: 'closed'; code?: number; error?: TidewireError };

/** Where one or several channels stand. `channels` are all that the cursor may speak of. */
export interface Position { cursor: string; channels: readonly string[] }

/** A channel as a link is asked to open it; `alone` where the server refused it together with others. */
export interface Want { channel: string; position?: Position; since?: string; snapshot: boolean; alone?: boolean }
