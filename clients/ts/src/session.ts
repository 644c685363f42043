// The connection's life as a pure state machine: `handle*` takes what happened, `actions` is what to do.
// Owns backoff, fallback, resume, liveness. Must not know clocks, timers, sockets or fetch: time is an argument.
import * as limits from './limits';
import { TidewireError } from './types';
import type { ConnectionState, Gap, LinkMessage, Position, Snapshot, SubscriptionState, TidewireEvent, TransportName, Want } from './types';

export type Action =
  | { type: 'connect'; transport: TransportName; wants: Want[] }
  | { type: 'disconnect' }
  | { type: 'send'; message: Record<string, unknown> }
  | { type: 'refresh' }
  | { type: 'event'; event: TidewireEvent }
  | { type: 'refused'; id: string | number; error: TidewireError }
  | { type: 'gap'; gap: Gap }
  | { type: 'snapshot'; snapshot: Snapshot }
  | { type: 'connection'; state: ConnectionState; transport: TransportName; error?: TidewireError }
  | { type: 'subscription'; channel: string; state: SubscriptionState; error?: TidewireError };

interface Channel {
  since: string | undefined;
  /** The application wants states: at the start, and after a gap. */
  snapshot: boolean;
  position?: Position;
  recent: Set<string>;
  lastGap: string;
  /** The id of the subscribe that was sent on this link, `undefined` if none; what precedes its answer is not ours. */
  asked: number | undefined;
  live: boolean;
  /** When a refused subscribe may be repeated. */
  retryAtMs: number;
}

interface Path { failures: number; badUntilMs: number; badForMs: number; suspect: boolean }

/** Codes after which the same request can never succeed. */
const FINAL_CLOSE = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
const FINAL_STATUS = new Set([400, 403, 404, 405, 413, 415, 422, 431, 501, 505]);
/** Refusals that may be about one channel of several. */
const CHANNEL_ERRORS = new Set(['unauthenticated', 'forbidden', 'invalid_cursor', 'invalid_channel']);
const PASSING_ERRORS = new Set(['too_many_requests', 'unavailable', 'internal', 'history_full', 'storage_failed', 'storage_full', 'backplane_unavailable']);

export class Session {
  #channels = new Map<string, Channel>();
  #paths = new Map<TransportName, Path>();
  #actions: Action[] = [];
  #state: ConnectionState = 'idle';
  #transport: TransportName;
  #attempts = 0;
  #refusals = 0;
  #nextId = 1;
  #linkSinceMs = 0;
  #heardMs = 0;
  #pingSentMs: number | undefined;
  #welcomed = false;
  /** When to connect (waiting), or when to leave a connection that still works (asked by the server, or to go up). */
  #dueMs = Infinity;
  #windowDueMs: number | undefined;
  /** One immediate retry for each time the network or the tab came back. */
  #hurried = false;
  /** The channels were refused together: each is asked for on its own, to learn which of them it was. */
  #alone = false;
  /** The WebSocket's handshake is done. */
  #linkOpen = false;

  constructor(
    readonly transports: readonly TransportName[],
    readonly random: () => number,
  ) {
    if (!transports[0]) throw new TidewireError('no_transport', 'no transport can be used here: give at least one in `transports`');
    this.#transport = transports[0];
    for (const name of transports) this.#paths.set(name, { failures: 0, badUntilMs: 0, badForMs: limits.pathBadMs, suspect: false });
  }

  /** The link takes a message for each channel; else a change of channels takes another link. */
  get #framed(): boolean {
    return this.#transport === 'websocket' || this.#transport === 'shared';
  }

  /** Takes the actions that have piled up; they are to be done in order. */
  actions(): Action[] {
    return this.#actions.splice(0);
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Whether a message of the application's own can be sent now. */
  get speaks(): boolean {
    return this.#state === 'open' && this.#transport === 'websocket';
  }

  /** Where to go on, as `since`, by another client or after a restart. */
  cursor(channel: string): string | undefined {
    return this.#channels.get(channel)?.position?.cursor;
  }

  handleSubscribe(channel: string, since: string | undefined, snapshot: boolean, nowMs: number): void {
    if (this.#channels.has(channel)) throw new TidewireError('already_subscribed', `${channel} is subscribed by this client already`);
    if (this.#state === 'closed' || this.#state === 'failed') throw new TidewireError('closed', `the client is ${this.#state}: make another`);
    const started = { since, snapshot, recent: new Set<string>(), lastGap: '', asked: undefined, live: false, retryAtMs: Infinity };
    this.#channels.set(channel, started);
    if (this.#state === 'idle') this.#connect(nowMs);
    else this.#changed(() => this.#ask(channel, started), nowMs);
  }

  handleUnsubscribe(channel: string, nowMs: number): void {
    if (!this.#channels.delete(channel)) return;
    this.#actions.push({ type: 'subscription', channel, state: 'closed' });
    const last = this.#channels.size === 0;
    if (this.#framed || !last) this.#changed(() => this.#actions.push({ type: 'send', message: { type: 'unsubscribe', channel, id: 0 } }), nowMs);
    if (last) this.#leave('idle');
  }

  handleClose(): void {
    this.#leave('closed');
    for (const channel of this.#channels.keys()) this.#actions.push({ type: 'subscription', channel, state: 'closed' });
    this.#channels.clear();
  }

  /** The network is back or the tab is seen again: try at once, but only once until something is heard. */
  handleHurry(nowMs: number): void {
    // What is open may have been so on the network before.
    if (this.#state === 'open' && this.#framed && this.#pingSentMs === undefined) return this.#ping(nowMs);
    if (this.#state !== 'waiting' || this.#hurried || this.#windowDueMs !== undefined) return;
    this.#hurried = true;
    this.#connect(nowMs);
  }

  /** The machine slept, so long unseen by `nowMs`: whatever socket there was is dead, and its timeout would take long to say so. */
  handleWake(nowMs: number, sleptMs: number): void {
    if (this.#state === 'waiting' && this.#windowDueMs !== undefined) {
      this.#dueMs = this.#windowDueMs -= sleptMs;
      return this.handleTime(nowMs);
    }
    if (this.#state !== 'open' && this.#state !== 'connecting' && this.#state !== 'waiting') return;
    this.#actions.push({ type: 'disconnect' });
    this.#attempts = 0;
    this.#connect(nowMs);
  }

  /** When `handleTime` is to be called at the latest. */
  get deadlineMs(): number {
    if (this.#state === 'waiting') return this.#dueMs;
    // Another tab may wait for the network as long as it takes; whether it lives is the link's to know.
    if (this.#state === 'connecting') return this.#transport === 'shared' ? Infinity : this.#linkSinceMs + limits.welcomeTimeoutMs;
    if (this.#state !== 'open') return Infinity;
    const retry = Math.min(Infinity, ...[...this.#channels.values()].map((channel) => channel.retryAtMs));
    return Math.min(this.#dueMs, retry, this.#silenceMs());
  }

  /** `lateMs`: how much later than asked for this call comes. */
  handleTime(nowMs: number, lateMs = 0): void {
    if (nowMs < this.deadlineMs) return;
    if (this.#state === 'waiting') return this.#connect(nowMs);
    if (lateMs > limits.timerSluggishMs && this.#state === 'open' && nowMs < this.#dueMs && nowMs >= this.#silenceMs()) {
      // A throttled tab reads what came only after its timers: ask, and judge by the answer.
      this.#heardMs = nowMs;
      this.#pingSentMs = undefined;
      if (this.#framed) this.#ping(nowMs);
      return;
    }
    if (this.#state === 'connecting') return this.#lost(nowMs, true);
    for (const [name, channel] of this.#channels) if (nowMs >= channel.retryAtMs) this.#ask(name, channel);
    if (nowMs >= this.#dueMs) {
      // Asked to leave by the server, or a better transport is worth another try.
      this.#actions.push({ type: 'disconnect' });
      return this.#connect(nowMs);
    }
    if (nowMs < this.#silenceMs()) return;
    if (this.#framed && this.#pingSentMs === undefined) return this.#ping(nowMs);
    this.#lost(nowMs, false);
  }

  handleMessage(message: LinkMessage, nowMs: number): void {
    if (this.#state !== 'connecting' && this.#state !== 'open') return;
    if (message.type === 'closed') return this.#closed(message, nowMs);
    this.#heardMs = nowMs;
    this.#pingSentMs = undefined;
    if (message.type === 'reconnect') return this.#window(message.afterMs, nowMs);
    if (this.#state === 'connecting') this.#welcome(nowMs);
    switch (message.type) {
      case 'subscribed': {
        const channel = this.#channels.get(message.channel);
        if (!channel || channel.asked !== message.id) return;
        // A word is no position: where it begins is known with the first event.
        if (message.cursor) channel.position = { cursor: message.cursor, channels: [message.channel] };
        return this.#live(message.channel, channel);
      }
      case 'position': {
        const position = { cursor: message.cursor, channels: [...this.#channels.keys()] };
        for (const [name, channel] of this.#channels) {
          channel.position = position;
          this.#live(name, channel);
        }
        return;
      }
      case 'snapshot': {
        const channel = this.#channels.get(message.snapshot.channel);
        if (!channel || (this.#framed && !channel.live)) return;
        channel.position = { cursor: message.snapshot.cursor, channels: [message.snapshot.channel] };
        this.#actions.push({ type: 'snapshot', snapshot: message.snapshot });
        return;
      }
      case 'event':
        return this.#event(message.event, message.cursor);
      case 'gap':
        return this.#gap(message.gap, nowMs);
      case 'expired':
        this.#actions.push({ type: 'refresh' });
        return;
      case 'unsubscribed': {
        // Without an id it is the server's own doing: the refreshed token does not grant the channel any more.
        if (message.id === undefined && this.#channels.has(message.channel) && this.#channels.get(message.channel)!.live) {
          this.#fail(message.channel, new TidewireError('forbidden', `the token does not grant ${message.channel} any more`, 403));
        }
        return;
      }
      case 'error':
        return this.#refused(message, nowMs);
    }
  }

  #event(event: TidewireEvent, cursor: string | undefined): void {
    const channel = this.#channels.get(event.channel);
    if (!channel || (this.#framed && !channel.live)) return;
    if (cursor === undefined) channel.position = { cursor: event.id, channels: [event.channel] };
    else {
      const position = { cursor, channels: [...this.#channels.keys()] };
      for (const each of this.#channels.values()) each.position = position;
    }
    if (channel.recent.has(event.id)) return;
    channel.recent.add(event.id);
    if (channel.recent.size > limits.recentIdsMax) channel.recent.delete(channel.recent.values().next().value!);
    this.#actions.push({ type: 'event', event });
  }

  #gap(gap: Gap, nowMs: number): void {
    const channel = this.#channels.get(gap.channel);
    if (!channel) return;
    // Cut off before the next event, the same gap is told again on return.
    const same = `${gap.requested} ${gap.resumedFrom}`;
    if (channel.lastGap !== same) this.#actions.push({ type: 'gap', gap });
    channel.lastGap = same;
    if (!channel.snapshot) return;
    delete channel.position;
    channel.since = undefined;
    channel.live = false;
    channel.asked = undefined;
    this.#changed(() => {
      this.#actions.push({ type: 'send', message: { type: 'unsubscribe', channel: gap.channel, id: 0 } });
      this.#ask(gap.channel, channel);
    }, nowMs);
  }

  #refused({ id, channel: about, code, message }: Extract<LinkMessage, { type: 'error' }>, nowMs: number): void {
    for (const [name, channel] of this.#channels) {
      if (name !== about && (id === undefined || channel.asked !== id)) continue;
      if (code === 'already_subscribed') return;
      if (!PASSING_ERRORS.has(code)) return this.#fail(name, new TidewireError(code, message));
      channel.retryAtMs = nowMs + this.#backoff();
      return;
    }
    if (id !== undefined) this.#actions.push({ type: 'refused', id, error: new TidewireError(code, message) });
  }

  #fail(name: string, error: TidewireError): void {
    this.#channels.delete(name);
    this.#actions.push({ type: 'subscription', channel: name, state: 'failed', error });
    if (this.#channels.size === 0) this.#leave('idle');
  }

  #live(name: string, channel: Channel): void {
    if (!channel.live) this.#actions.push({ type: 'subscription', channel: name, state: 'subscribed' });
    channel.live = true;
    this.#alone = false;
  }

  /** What subscriptions are has changed: a WebSocket is told, a request must be made anew. */
  #changed(tell: () => void, nowMs: number): void {
    if (this.#state !== 'open' && this.#state !== 'connecting') return;
    if (this.#framed) {
      if (this.#state === 'open' || this.#linkOpen) tell();
      return;
    }
    this.#actions.push({ type: 'disconnect' });
    this.#connect(nowMs);
  }

  /** The WebSocket's handshake is done: say what is wanted. The answers prove that the path carries data. */
  handleOpen(): void {
    if (this.#state !== 'connecting') return;
    this.#linkOpen = true;
    for (const [name, channel] of this.#channels) this.#ask(name, channel);
  }

  #ask(name: string, channel: Channel): void {
    channel.asked = this.#nextId++;
    channel.retryAtMs = Infinity;
    const since = channel.position?.cursor ?? channel.since;
    const start = channel.position ? { since } : channel.snapshot && !channel.since ? { snapshot: true } : since ? { since } : {};
    this.#actions.push({ type: 'send', message: { type: 'subscribe', channel: name, ...start, id: channel.asked } });
  }

  #connect(nowMs: number): void {
    const usable = this.transports.find((name) => !this.#paths.get(name)!.suspect && this.#paths.get(name)!.badUntilMs <= nowMs);
    if (!usable) for (const path of this.#paths.values()) path.suspect = false;
    this.#transport = usable ?? this.transports.find((name) => this.#paths.get(name)!.badUntilMs <= nowMs) ?? this.transports.at(-1)!;
    this.#linkSinceMs = this.#heardMs = nowMs;
    this.#pingSentMs = this.#windowDueMs = undefined;
    this.#dueMs = Infinity;
    this.#welcomed = this.#linkOpen = false;
    const wants: Want[] = [];
    for (const [channel, own] of this.#channels) {
      if (own.live) this.#actions.push({ type: 'subscription', channel, state: 'waiting' });
      own.live = false;
      own.asked = undefined;
      own.retryAtMs = Infinity;
      const want: Want = { channel, snapshot: own.snapshot && !own.position && !own.since };
      if (own.position) want.position = own.position;
      if (own.since) want.since = own.since;
      if (this.#alone) want.alone = true;
      wants.push(want);
    }
    this.#enter('connecting');
    this.#actions.push({ type: 'connect', transport: this.#transport, wants });
  }

  #welcome(nowMs: number): void {
    this.#welcomed = true;
    this.#hurried = false;
    this.#refusals = 0;
    const path = this.#paths.get(this.#transport)!;
    path.failures = 0;
    path.badForMs = limits.pathBadMs;
    // Now it is known that the network works, and thus that the paths above are bad, not everything.
    for (const name of this.transports) {
      const other = this.#paths.get(name)!;
      if (other === path) break;
      if (other.suspect) {
        other.suspect = false;
        other.badUntilMs = nowMs + other.badForMs;
        other.badForMs = Math.min(limits.pathBadMaxMs, other.badForMs * 2);
      }
      this.#dueMs = Math.min(this.#dueMs, Math.max(other.badUntilMs, nowMs + limits.stableMs));
    }
    this.#enter('open');
  }

  #window([leastMs, mostMs]: [number, number], nowMs: number): void {
    const delayMs = leastMs + this.random() * Math.max(0, mostMs - leastMs);
    this.#windowDueMs = nowMs + Math.min(delayMs, limits.serverDelayMaxMs);
    if (this.#state === 'connecting') this.#lost(nowMs, false);
    else this.#dueMs = this.#windowDueMs;
  }

  #closed({ code = 0, error }: Extract<LinkMessage, { type: 'closed' }>, nowMs: number): void {
    const { status, retryAfterMs } = (error ??= new TidewireError(code ? `close_${code}` : 'unreachable', 'the connection ended'));
    // The provider gives a fresh token for each connection; a second refusal is about more than an old one.
    const fresh = (status === 401 || code === 4005) && !this.#refusals++;
    const which = !fresh && !this.#alone && this.#channels.size > 1 && CHANNEL_ERRORS.has(error.code);
    if (fresh || which) {
      this.#alone = which;
      this.#actions.push({ type: 'disconnect' });
      return this.#connect(nowMs);
    }
    if (status === 401 || code === 4005 || FINAL_STATUS.has(status) || FINAL_CLOSE.has(code)) return this.#give(error);
    if (retryAfterMs !== undefined) this.#windowDueMs = nowMs + Math.min(limits.serverDelayMaxMs, retryAfterMs * (1 + this.random() * 0.5));
    this.#lost(nowMs, !this.#welcomed && !status && retryAfterMs === undefined);
  }

  #lost(nowMs: number, blamePath: boolean): void {
    this.#actions.push({ type: 'disconnect' });
    const path = this.#paths.get(this.#transport)!;
    // A path that was bad before gets one try only, and its failure costs no waiting.
    const probed = blamePath && path.badForMs > limits.pathBadMs;
    if (probed || (blamePath && ++path.failures >= limits.pathFailuresMax)) {
      path.failures = 0;
      path.suspect = true;
    }
    if (this.#welcomed && nowMs - this.#linkSinceMs >= limits.stableMs) this.#attempts = 0;
    this.#dueMs = this.#windowDueMs ?? nowMs + (probed ? 0 : this.#backoff());
    for (const [channel, own] of this.#channels) {
      if (own.live) this.#actions.push({ type: 'subscription', channel, state: 'waiting' });
      own.live = false;
    }
    this.#enter('waiting');
  }

  #give(error: TidewireError): void {
    // First the connection: whoever hears of a channel's end knows then that it is not about that channel.
    this.#leave('failed', error);
    for (const channel of this.#channels.keys()) this.#actions.push({ type: 'subscription', channel, state: 'failed', error });
    this.#channels.clear();
  }

  #leave(state: ConnectionState, error?: TidewireError): void {
    this.#actions.push({ type: 'disconnect' });
    this.#dueMs = Infinity;
    this.#windowDueMs = undefined;
    this.#enter(state, error);
  }

  #enter(state: ConnectionState, error?: TidewireError): void {
    if (this.#state === state && state !== 'connecting') return;
    this.#state = state;
    this.#actions.push({ type: 'connection', state, transport: this.#transport, ...(error && { error }) });
  }

  #backoff(): number {
    return this.random() * limits.backoffMs(this.#attempts++);
  }

  #ping(nowMs: number): void {
    this.#pingSentMs = nowMs;
    this.#actions.push({ type: 'send', message: { type: 'ping' } });
  }

  #silenceMs(): number {
    if (this.#transport === 'eventsource') return this.#heardMs + limits.eventSourceSilenceMs;
    if (!this.#framed) return this.#heardMs + limits.streamSilenceMs;
    if (this.#pingSentMs !== undefined) return this.#pingSentMs + limits.pongTimeoutMs;
    return this.#heardMs + limits.pingAfterMs;
  }
}
