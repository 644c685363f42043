// One tab's part in sharing: takes part in the election, leads when elected, else listens; and is, for the session,
// a link like any other. Must not know what sessions decide.
import type { TabHost, TabHub } from '../client';
import type { Link, Sink } from '../transports/link';
import { Leader } from './leader';
import type { FromLeader, News, ToLeader } from './messages';
import { Reader, Told } from './reader';
import type { Subscribe } from './reader';

/** A leader that answers nothing for this long is frozen, and another tab takes its place. */
const ANSWER_WITHIN_MS = 5_000;
/** A timer this late says nothing of others: this tab was slow itself. */
const LATE_MS = 2_000;

/** What a browser gives tabs to find each other with. */
export interface Room { bus: Pick<BroadcastChannel, 'postMessage' | 'onmessage' | 'close'>; locks: Pick<LockManager, 'request'>; name: string }

type WithoutTab<Message> = Message extends unknown ? Omit<Message, 'tab'> : never;

export class Hub implements TabHub {
  #id = crypto.randomUUID() as string;
  #term = 0;
  #leader: Leader | undefined;
  #sink: Sink | undefined;
  #up = false;
  #told = new Map<string, Told>();
  #readers = new Map<string, Reader>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #queued = false;
  #ended = new AbortController();
  #entered: Promise<void>;

  constructor(readonly host: TabHost, readonly room: Room) {
    room.bus.onmessage = ({ data }: MessageEvent<FromLeader | ToLeader>) => ('term' in data ? this.#hear(data) : this.#leader?.handle(data));
    // Held as long as this tab lives: whoever leads waits for it, to learn of the tab's death.
    this.#entered = new Promise((entered) => this.#lock(`${room.name} ${this.#id}`, () => entered()));
  }

  open(sink: Sink): Link {
    this.#sink = sink;
    this.#up = false;
    void this.#entered.then(() => {
      this.#enlist();
      this.#ask();
    });
    return {
      send: (message) => {
        const channel = message.channel as string;
        if (message.type === 'subscribe') this.#subscribe(sink, message as unknown as Subscribe);
        else if (message.type === 'unsubscribe') this.#leave(channel);
        else if (message.type === 'ping') this.#ask();
      },
      close: () => {
        if (this.#sink === sink) this.#sink = undefined;
        for (const reader of this.#readers.values()) if (reader.sink === sink) reader.end();
      },
    };
  }

  hurry(): void {
    this.#say({ type: 'hurry' });
  }

  close(): void {
    this.#ended.abort();
    clearTimeout(this.#timer);
    this.#leader?.close();
    this.#leader = undefined;
    this.room.bus.close();
  }

  /** Holds a lock until this tab's part ends. */
  #lock(name: string, got: () => void): void {
    const { signal } = this.#ended;
    this.room.locks.request(name, { signal }, () => new Promise<void>((release) => {
      signal.addEventListener('abort', () => release());
      got();
    })).catch(() => {});
  }

  /** Waits to be the one who leads; with `steal`, is so at once. */
  #enlist(steal = false): void {
    if (this.#ended.signal.aborted || (this.#queued && !steal)) return;
    if (!steal) this.#queued = true;
    const { signal } = this.#ended;
    const resigned = new AbortController();
    this.room.locks.request(this.room.name, steal ? { steal } : { signal }, () => new Promise<void>((release) => {
      if (!steal) this.#queued = false;
      for (const end of [signal, resigned.signal]) end.addEventListener('abort', () => release());
      this.#lead(resigned);
    })).catch(() => {
      // Stolen: another tab had no answer from this one.
      resigned.abort();
      this.#resign(resigned);
      this.#enlist();
    });
  }

  #mandate: AbortController | undefined;

  #lead(mandate: AbortController): void {
    if (this.#ended.signal.aborted) return;
    this.#mandate = mandate;
    const term = Math.max(Date.now(), this.#term + 1);
    const tell = (news: News) => {
      if (this.#mandate !== mandate) return;
      const message = { ...news, term } as FromLeader;
      this.room.bus.postMessage(message);
      this.#hear(message);
    };
    const watch = (tab: string, gone: () => void) => {
      if (tab === this.#id) return;
      this.room.locks.request(`${this.room.name} ${tab}`, { mode: 'shared', signal: AbortSignal.any([mandate.signal, this.#ended.signal]) }, gone).catch(() => {});
    };
    this.#leader = new Leader(this.host, tell, watch, (error) => {
      // For good, for this tab's credentials: another tab may have better ones.
      const sink = this.#sink;
      mandate.abort();
      this.#resign(mandate);
      sink?.message({ type: 'closed', code: 1008, ...(error && { error }) });
    });
    this.#leader.stand();
  }

  #resign(mandate: AbortController): void {
    if (this.#mandate !== mandate) return;
    this.#mandate = undefined;
    this.#leader?.close();
    this.#leader = undefined;
  }

  #say(message: WithoutTab<ToLeader>): void {
    const whole = { ...message, tab: this.#id } as ToLeader;
    if (this.#leader) this.#leader.handle(whole);
    else if (!this.#ended.signal.aborted) this.room.bus.postMessage(whole);
  }

  /** Asks for a sign of life, and again while there is no connection. */
  #ask(): void {
    clearTimeout(this.#timer);
    const dueMs = performance.now() + ANSWER_WITHIN_MS;
    this.#timer = setTimeout(() => {
      const late = performance.now() - dueMs > LATE_MS;
      if (!this.#answered && !late && !this.#leader) this.#enlist(true);
      const settled = this.#up && this.#answered && [...this.#readers.values()].every(({ joined }) => joined);
      if (this.#sink && !settled) this.#ask();
    }, ANSWER_WITHIN_MS);
    this.#answered = false;
    this.#say({ type: 'hello' });
  }

  #answered = false;

  #hear(message: FromLeader): void {
    if (message.term < this.#term) return;
    this.#answered = true;
    if (message.term > this.#term) {
      // Another one leads: what was told before does not go on in what is told now.
      this.#term = message.term;
      this.#told.clear();
      this.#drop();
    }
    switch (message.type) {
      case 'standing':
        if (!message.up) return this.#drop();
        if (this.#up) return this.#sink?.message({ type: 'alive' });
        if (!this.#sink) return;
        this.#up = true;
        this.#sink.open();
        // What the session left while there was nobody to tell.
        for (const channel of this.#told.keys()) if (this.#readers.get(channel)?.sink !== this.#sink) this.#leave(channel);
        return;
      case 'start':
        if (message.tab !== this.#id || this.#told.has(message.channel)) return;
        this.#told.set(message.channel, new Told(message.cursor, message.fresh));
        return this.#news(message.channel);
      case 'event': {
        const { channel } = message.event;
        const reader = this.#readers.get(channel);
        this.#told.get(channel)?.push(message.event);
        if (reader?.joined) reader.sink.message({ type: 'event', event: message.event });
        else this.#news(channel);
        return;
      }
      case 'gap': {
        const { channel } = message.gap;
        const reader = this.#readers.get(channel);
        if (this.#told.has(channel)) this.#told.set(channel, new Told('', false));
        if (reader?.joined) reader.sink.message({ type: 'gap', gap: message.gap });
        return;
      }
      case 'refused':
        this.#told.delete(message.channel);
        this.#readers.get(message.channel)?.sink.message({ ...message, type: 'error' });
    }
  }

  /** The session comes back at once, and asks for each channel where it stands. */
  #drop(): void {
    if (!this.#up) return;
    this.#up = false;
    this.#sink?.message({ type: 'reconnect', afterMs: [0, 0] });
    this.#sink?.message({ type: 'closed' });
  }

  #news(channel: string): void {
    const told = this.#told.get(channel);
    if (told) this.#readers.get(channel)?.handleNews(told);
  }

  #subscribe(sink: Sink, wish: Subscribe): void {
    const { channel } = wish;
    this.#readers.get(channel)?.end();
    const reader = new Reader(this.host, wish, sink, (since) => {
      const told = this.#told.get(channel);
      if (told) {
        // Begun for a subscription that is over: where this one begins is for the server to say.
        told.fresh = false;
        reader.told = told;
      } else this.#say({ type: 'want', channel, since });
    });
    this.#readers.set(channel, reader);
    void reader.run();
  }

  #leave(channel: string): void {
    this.#readers.get(channel)?.end();
    this.#readers.delete(channel);
    this.#told.delete(channel);
    this.#say({ type: 'leave', channel });
  }
}
