// One channel in one tab: finds the place where the tab's own reading meets what the leader tells, and goes on there.
// Until then it reads from the server by itself. Must not read ids: places are compared, never ordered.
import type { TabHost } from '../client';
import type { Sink } from '../transports/link';
import { event, gaps, pathOf } from '../transports/wire';
import type { Page } from '../transports/wire';
import type { TidewireError, TidewireEvent } from '../types';

/** Events kept to find a place in; beyond it the oldest go, and whoever stands there reads by itself. */
const KEPT_MAX = 1_024;
/** Pause between two requests of a reader that has not met the leader's events yet. */
const READ_EVERY_MS = 1_000;

/** What the leader told of a channel: the newest events, all that came after `cursor`. */
export class Told {
  events: TidewireEvent[] = [];

  constructor(public cursor: string, public fresh: boolean) {}

  push(event: TidewireEvent): void {
    this.events.push(event);
    if (this.events.length > KEPT_MAX) this.cursor = this.events.shift()!.id;
  }

  /** What was told after this position, if that is known. */
  after(position: string): TidewireEvent[] | undefined {
    const at = this.events.map(({ id }) => id).lastIndexOf(position);
    // A cursor over several channels is their ids, joined.
    return at >= 0 || this.cursor.split('.').includes(position) || this.cursor === position ? this.events.slice(at + 1) : undefined;
  }
}

export interface Subscribe { channel: string; id: number; since?: string; snapshot?: boolean }

export class Reader {
  told: Told | undefined;
  joined = false;
  #ended = false;
  #wake = () => {};

  constructor(readonly host: TabHost, readonly wish: Subscribe, readonly sink: Sink, readonly want: (since: string | undefined) => void) {}

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** There is news in `told`. */
  handleNews(told: Told): void {
    this.told = told;
    this.#wake();
  }

  async run(): Promise<void> {
    try {
      await this.#run();
    } catch (error) {
      // Without an answer it is the network, and the session asks again later.
      const { status, code, message } = error as Partial<TidewireError>;
      if (!this.#ended) this.sink.message({ type: 'error', channel: this.wish.channel, code: status ? code! : 'unavailable', message: String(message) });
    }
  }

  async #run(): Promise<void> {
    const path = pathOf(this.wish.channel);
    let { since } = this.wish;
    if (this.wish.snapshot) {
      const { cursor, state } = await this.host.get<{ cursor: string; state: unknown }>(path);
      if (this.#ended) return;
      this.#subscribed(cursor);
      this.sink.message({ type: 'snapshot', snapshot: { channel: this.wish.channel, cursor, state } });
      since = cursor;
    }
    this.want(since);
    for (let readMs = -Infinity, more = false; ; ) {
      if (!this.told) await this.#news();
      else if (this.#meet(since)) return;
      else if (!more && performance.now() - readMs < READ_EVERY_MS) await this.#news(READ_EVERY_MS);
      else {
        readMs = performance.now();
        const page = await this.#page(`${path}/events?limit=1000&since=${since ?? 'latest'}`, since);
        if (!page || this.#ended) return;
        this.#subscribed(page.cursor);
        for (const gap of gaps(page.gap)) this.sink.message(gap);
        for (const wire of page.events) if (!this.#ended) this.sink.message({ type: 'event', event: event(wire, this.wish.channel) });
        ({ cursor: since, more } = page);
        if (!more && !this.#ended && this.told && !this.told.after(since)) await this.#news();
      }
      if (this.#ended) return;
    }
  }

  /** Goes on with what the leader tells, if it tells what comes next. */
  #meet(since: string | undefined): boolean {
    const told = this.told!;
    const events = since === undefined ? told.fresh && told.events.slice() : told.after(since);
    if (!events) return false;
    this.#subscribed(since ?? told.cursor);
    this.joined = true;
    for (const each of events) if (!this.#ended) this.sink.message({ type: 'event', event: each });
    return true;
  }

  /** As a server does for those who may not read back: from now on, with a gap for what that misses. */
  async #page(path: string, since: string | undefined): Promise<Page | undefined> {
    try {
      return await this.host.get<Page>(path);
    } catch (error) {
      if ((error as Partial<TidewireError>).status !== 403 || since === 'earliest' || this.#ended) throw error;
      const resumedFrom = this.told!.events.at(-1)?.id ?? this.told!.cursor;
      this.#subscribed(resumedFrom);
      this.joined = true;
      if (since) this.sink.message({ type: 'gap', gap: { channel: this.wish.channel, requested: since, resumedFrom } });
      return undefined;
    }
  }

  #told = false;

  #subscribed(cursor: string): void {
    if (!this.#told) this.sink.message({ type: 'subscribed', channel: this.wish.channel, cursor: cursor === 'earliest' ? '' : cursor, id: this.wish.id });
    this.#told = true;
  }

  #news(withinMs?: number): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (withinMs) setTimeout(resolve, withinMs);
    });
  }
}
