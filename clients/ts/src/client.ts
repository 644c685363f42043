// The thin shell: gives the session its clock, its timer, its links and the page's events, and does what it says.
// Must not decide anything about when or how to connect.
import * as limits from './limits';
import { Outbox } from './outbox';
import type { Outcome, Publish } from './outbox';
import { Session } from './session';
import type { Action } from './session';
import { guard, iterate } from './subscription';
import type { Listener, SubscribeOptions, Subscription } from './subscription';
import { openEventSource } from './transports/event-source';
import { ask, asError, get, request } from './transports/link';
import type { Environment, Link, OpenLink, Provider, Sink } from './transports/link';
import { openLongPoll, openPoll, openSse } from './transports/requests';
import { openWebSocket } from './transports/websocket';
import { pathOf } from './transports/wire';
import { TidewireError } from './types';
import type { ConnectionState, LinkMessage, TransportName } from './types';

export interface TidewireOptions {
  /** In order of preference. Default: `['websocket', 'sse', 'longpoll', 'poll']`; those that are not there are left out. */
  transports?: readonly TransportName[];
  /** A JWT, or what gives one; asked for each connection, publish, and when the server says that it expired. */
  token?: Provider;
  /** A ticket, or what gets one; asked for each `GET`. Tickets cannot publish. */
  ticket?: Provider;
  /** For cookies of another origin: `include`. */
  credentials?: RequestCredentials;
  /** A `WebSocket` constructor. Node 20 has none: give the one of the package `ws`. */
  WebSocket?: unknown;
  /** An `EventSource` constructor, for the transport `eventsource`. Node has none: give the one of the package `eventsource`. */
  EventSource?: typeof EventSource;
  /** The names of events to listen for with `eventsource`, which can get no others (events without a name always come). */
  eventNames?: readonly string[];
  fetch?: typeof fetch;
  /** `shareTabs()` of `tidewire/shared`: all tabs of an origin use one connection, of one of them. */
  tabs?: (host: TabHost) => TabHub | undefined;
  onState?: (state: ConnectionState, detail: { transport: TransportName; error?: TidewireError }) => void;
}

/** A channel, as far as this client goes. Having one costs nothing. */
export interface Channel {
  /**
   * Gets its events. A client has one subscription of a channel.
   * @throws TidewireError `already_subscribed`, or `closed` where the client is.
   */
  subscribe(options?: SubscribeOptions): Subscription;
  /**
   * Publishes: JSON, or a `Uint8Array` as bytes, or a string as it is where `contentType` is of text. Waits while there
   * is no connection, in order. Rejects with what the server refuses for good, with `queue_full` beyond 1,000, and with
   * `closed`.
   */
  publish(data: unknown, options?: PublishOptions): Promise<Outcome>;
}

/** `id` is of a message of one's own that was refused. */
export type Watcher = (state: ConnectionState, id?: string | number, error?: TidewireError) => void;

export interface PublishOptions {
  /** The event's name. */
  event?: string;
  /** What the event is about, for channels whose state is by key. */
  key?: string;
  /** Default: `application/json`, or `application/octet-stream` for a `Uint8Array`. A string is sent as it is with `text/...`. */
  contentType?: string;
  /** Default: a random one for each publish, so that its retries make one event. */
  idempotencyKey?: string;
}

/** What `tidewire/shared` is told, which has nothing of this module but types. */
export interface TabHost {
  url: string;
  /** A client for the connection of all tabs. */
  connect(onState: TidewireOptions['onState']): Pick<Tidewire, 'channel' | 'hurry' | 'close'>;
  get<Answer>(path: string): Promise<Answer>;
}

/** One tab's part in the sharing. */
export interface TabHub { open(sink: Sink): Link; hurry(): void; close(): void }

const LINKS: Record<Exclude<TransportName, 'shared'>, OpenLink> = { websocket: openWebSocket, sse: openSse, eventsource: openEventSource, longpoll: openLongPoll, poll: openPoll };

const NEEDS: { [name in TransportName]?: 'WebSocket' | 'EventSource' } = { websocket: 'WebSocket', eventsource: 'EventSource' };

/** One connection to a server, for any number of channels. It connects with the first subscription. */
export class Tidewire {
  #environment: Environment;
  #hub: TabHub | undefined;
  #session: Session;
  #outbox = new Outbox(Math.random);
  #listeners = new Map<string, Listener>();
  #link: Link | undefined;
  /** Messages of a link that was left do not count. */
  #generation = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #skewMs = Date.now() - performance.now();
  #watchers = new Set<Watcher>();
  #busy = false;
  #closed = false;
  #page = typeof document === 'undefined' ? undefined : document;

  /** `url` may be relative to the page's own. */
  constructor(url: string, readonly options: TidewireOptions = {}) {
    const environment = this.#environment = {
      url: new URL(url, globalThis.location?.href).href.replace(/\/+$/, ''),
      fetch: options.fetch ?? globalThis.fetch.bind(globalThis),
      WebSocket: (options.WebSocket ?? globalThis.WebSocket) as Environment['WebSocket'],
      EventSource: options.EventSource ?? globalThis.EventSource,
      eventNames: options.eventNames,
      token: options.token,
      ticket: options.ticket,
      credentials: options.credentials,
    };
    const { tabs, ...alone } = options;
    this.#hub = tabs?.({
      url: environment.url,
      connect: (onState) => new Tidewire(url, { ...alone, ...(onState && { onState }) }),
      get: (path) => get(environment, path, AbortSignal.timeout(limits.requestTimeoutMs)),
    });
    const wanted: TransportName[] = (options.transports ?? (['websocket', 'sse', 'longpoll', 'poll'] as const)).filter((name) => environment[NEEDS[name] ?? 'fetch']);
    this.#session = new Session(this.#hub ? ['shared', ...wanted] : wanted, Math.random);
    globalThis.addEventListener?.('online', this.#seen);
    this.#page?.addEventListener('visibilitychange', this.#seen);
  }

  get state(): ConnectionState {
    return this.#session.state;
  }

  /** A request with this client's credentials. Rejects with a `TidewireError` unless the answer is a success. */
  request(path: string, init: RequestInit = {}): Promise<Response> {
    return request(this.#environment, path, init);
  }

  /** Says something of one's own on the WebSocket. False if there is none that is open. */
  send(message: Record<string, unknown>): boolean {
    const can = this.#session.speaks;
    if (can) this.#link!.send(message);
    return can;
  }

  /** Calls back with each state of the connection, and with refusals of what was sent; gives what ends that. */
  watch(call: Watcher): () => void {
    this.#watchers.add(call);
    return () => void this.#watchers.delete(call);
  }

  /** One subscription at a time for each channel. `publish` resolves when the server has the event, and is retried until then. */
  channel(name: string): Channel {
    return {
      subscribe: (options = {}) => this.#subscribe(name, options),
      publish: (data, options = {}) => this.#publish(name, data, options),
    };
  }

  /** Tries at once what waits for its time, as when the network or the tab comes back, where no event of the page says so. */
  hurry(): void {
    this.#hub?.hurry();
    const nowMs = performance.now();
    this.#session.handleTime(nowMs);
    this.#session.handleHurry(nowMs);
    this.#outbox.handleHurry();
    this.#work();
  }

  /** Ends everything: subscriptions, and publishes that have no answer yet (they reject). */
  close(): void {
    this.#closed = true;
    this.#session.handleClose();
    this.#outbox.handleClose();
    globalThis.removeEventListener?.('online', this.#seen);
    this.#page?.removeEventListener('visibilitychange', this.#seen);
    this.#work();
    this.#hub?.close();
  }

  #subscribe(name: string, options: SubscribeOptions): Subscription {
    this.#session.handleSubscribe(name, options.since, options.snapshot ?? false, performance.now());
    const listener: Listener = { options, ended: [], events: [] };
    this.#listeners.set(name, listener);
    const unsubscribe = () => {
      if (this.#listeners.get(name) !== listener) return;
      this.#session.handleUnsubscribe(name, performance.now());
      this.#work();
    };
    // Without a callback the iterator is the reader, and must miss nothing that comes before its loop begins.
    const first = options.onEvent ? undefined : iterate(listener, unsubscribe);
    this.#work();
    const session = this.#session;
    return {
      unsubscribe,
      get cursor() {
        return session.cursor(name);
      },
      [Symbol.asyncIterator]: () => first ?? iterate(listener, () => {}),
    };
  }

  #publish(channel: string, data: unknown, options: PublishOptions): Promise<Outcome> {
    if (this.#closed) return Promise.reject(new TidewireError('closed', 'the client is closed: make another'));
    const bytes = data instanceof Uint8Array;
    const headers: Record<string, string> = {
      'Content-Type': options.contentType ?? (bytes ? 'application/octet-stream' : 'application/json'),
      'Idempotency-Key': options.idempotencyKey ?? crypto.randomUUID(),
    };
    if (options.event) headers['Tidewire-Event'] = options.event;
    if (options.key) headers['Tidewire-Key'] = options.key;
    const text = typeof data === 'string' && options.contentType?.startsWith('text/');
    const body = bytes || text ? (data as Uint8Array | string) : JSON.stringify(data);
    return new Promise((resolve, reject) => {
      this.#outbox.handlePublish({ channel, body, headers }, resolve, reject);
      this.#work();
    });
  }

  #seen = (): void => {
    if (this.#page?.visibilityState !== 'hidden') this.hurry();
  };

  /** Does what the machines say, then sets the one timer. Callbacks may call back in: then the loop goes on here. */
  #work(): void {
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let actions = this.#session.actions(); actions.length > 0; actions = this.#session.actions()) {
        for (const action of actions) this.#do(action);
      }
      for (const publish of this.#outbox.pollSend(performance.now())) void this.#send(publish);
    } finally {
      this.#busy = false;
    }
    clearTimeout(this.#timer);
    const nowMs = performance.now();
    const deadlineMs = Math.min(this.#session.deadlineMs, this.#outbox.deadlineMs, this.#session.state === 'open' ? nowMs + limits.tickMs : Infinity);
    if (deadlineMs < Infinity) this.#timer = setTimeout(() => this.#tick(deadlineMs), Math.max(0, Math.ceil(deadlineMs - nowMs)));
  }

  #tick(askedMs: number): void {
    const nowMs = performance.now();
    const skewMs = Date.now() - nowMs;
    const sleptMs = skewMs - this.#skewMs;
    this.#skewMs = skewMs;
    if (sleptMs > limits.clockJumpMs || nowMs - askedMs > limits.timerLateMs) this.#session.handleWake(nowMs, Math.max(0, sleptMs));
    else this.#session.handleTime(nowMs, nowMs - askedMs);
    this.#work();
  }

  #do(action: Action): void {
    switch (action.type) {
      case 'connect': {
        const generation = ++this.#generation;
        const current = () => generation === this.#generation;
        const sink: Sink = {
          open: () => current() && this.#tell(() => this.#session.handleOpen()),
          message: (message: LinkMessage) => current() && this.#tell(() => this.#session.handleMessage(message, performance.now())),
        };
        this.#link = action.transport === 'shared' ? this.#hub!.open(sink) : LINKS[action.transport](this.#environment, action.wants, sink);
        return;
      }
      case 'disconnect':
        this.#generation++;
        this.#link?.close();
        this.#link = undefined;
        return;
      case 'send':
        return this.#link?.send(action.message);
      case 'refresh':
        void this.#refresh(this.#link);
        return;
      case 'connection':
        this.#watch(action.state);
        return guard(() => this.options.onState?.(action.state, { transport: action.transport, ...(action.error && { error: action.error }) }));
      case 'refused':
        return this.#watch(this.state, action.id, action.error);
      case 'event': {
        const listener = this.#listeners.get(action.event.channel);
        guard(() => listener?.options.onEvent?.(action.event));
        return listener?.events.forEach((give) => give(action.event));
      }
      case 'gap':
        return guard(() => this.#listeners.get(action.gap.channel)?.options.onGap?.(action.gap));
      case 'snapshot':
        return guard(() => this.#listeners.get(action.snapshot.channel)?.options.onSnapshot?.(action.snapshot));
      case 'subscription': {
        const listener = this.#listeners.get(action.channel);
        guard(() => listener?.options.onState?.(action.state, action.error));
        if (action.state !== 'failed' && action.state !== 'closed') return;
        this.#listeners.delete(action.channel);
        listener?.ended.forEach((end) => end(action.error));
      }
    }
  }

  #watch(...said: Parameters<Watcher>): void {
    for (const call of this.#watchers) guard(() => call(...said));
  }

  #tell(handle: () => void): void {
    handle();
    this.#work();
  }

  /** Where there is no new token, the connection ends as announced, and the next one asks again. */
  async #refresh(link: Link | undefined): Promise<void> {
    const token = await ask(this.#environment.token).catch(() => undefined);
    if (token && link === this.#link) link?.send({ type: 'refresh', token });
  }

  async #send(publish: Publish): Promise<void> {
    const { channel, body, headers } = publish;
    const answer = await request(this.#environment, `${pathOf(channel)}/events`, {
      method: 'POST', body: body as BodyInit, headers, signal: AbortSignal.timeout(limits.requestTimeoutMs),
    }).then(async (response) => ({ outcome: (await response.json()) as Outcome }), (error: unknown) => ({ error: asError(error) })).catch(() => ({}));
    this.#outbox.handleAnswer(channel, answer, performance.now());
    this.#work();
  }
}
