// The tab that leads: one connection for what any tab wants, and everything that comes on it told to all of them.
// Must not know where a tab stands; each finds its own place in what is told (see `reader.ts`).
import type { TabHost } from '../client';
import type { Subscription } from '../subscription';
import type { TidewireError } from '../types';
import type { News, ToLeader } from './messages';

interface Shared {
  /** Right after what was told last; '' where that is no place to go on from, undefined while the server has not said. */
  cursor: string | undefined;
  first: string;
  waiting: string[];
  tabs: Set<string>;
  subscription?: Subscription;
}

export class Leader {
  #channels = new Map<string, Shared>();
  #known = new Set<string>();
  #up = true;
  #client;

  /** `watch` calls back when that tab is gone. */
  constructor(
    host: TabHost,
    readonly tell: (news: News) => void,
    readonly watch: (tab: string, gone: () => void) => void,
    failed: (error: TidewireError | undefined) => void,
  ) {
    this.#client = host.connect((state, { error }) => {
      if (state === 'failed') return failed(error);
      // Connecting for the first time is not worth a word: nobody has anything to lose yet.
      const up = state === 'waiting' ? false : state === 'connecting' ? this.#up : true;
      if (up === this.#up) return;
      this.#up = up;
      this.stand();
    });
  }

  handle(message: ToLeader): void {
    const { tab } = message;
    if (!this.#known.has(tab)) {
      this.#known.add(tab);
      this.watch(tab, () => {
        this.#known.delete(tab);
        for (const channel of this.#channels.keys()) this.#leave(tab, channel);
      });
    }
    if (message.type === 'want') return this.#want(tab, message.channel, message.since);
    if (message.type === 'leave') return this.#leave(tab, message.channel);
    // Timers of a hidden tab are late, but its messages are not: those who wait push it on.
    if (message.type === 'hurry' || !this.#up) this.#client.hurry();
    this.stand();
  }

  close(): void {
    this.#client.close();
  }

  stand(): void {
    this.tell({ type: 'standing', up: this.#up });
  }

  #want(tab: string, channel: string, since: string | undefined): void {
    const known = this.#channels.get(channel);
    if (known) {
      known.tabs.add(tab);
      known.waiting.push(tab);
      return this.#start(channel, known);
    }
    const shared: Shared = { cursor: since, first: tab, waiting: [tab], tabs: new Set([tab]) };
    this.#channels.set(channel, shared);
    const mine = () => this.#channels.get(channel) === shared;
    this.#start(channel, shared);
    shared.subscription = this.#client.channel(channel).subscribe({
      ...(since && { since }),
      onEvent: (event) => {
        if (!mine()) return;
        shared.cursor = event.id;
        this.tell({ type: 'event', event });
      },
      onGap: (gap) => {
        if (!mine()) return;
        shared.cursor = '';
        this.tell({ type: 'gap', gap });
      },
      onState: (state, error) => {
        if (!mine()) return;
        if (state === 'subscribed') {
          shared.cursor ??= shared.subscription!.cursor ?? '';
          this.#start(channel, shared);
        } else if (state === 'failed') {
          this.#channels.delete(channel);
          this.tell({ type: 'refused', channel, code: error!.code, message: error!.message });
        }
      },
    });
  }

  /** Says to those who wait where the channel's events begin for them. */
  #start(channel: string, shared: Shared): void {
    const { cursor, first } = shared;
    if (cursor === undefined) return;
    for (const tab of shared.waiting.splice(0)) this.tell({ type: 'start', tab, channel, cursor, fresh: tab === first });
    shared.first = '';
  }

  #leave(tab: string, channel: string): void {
    const shared = this.#channels.get(channel);
    if (!shared?.tabs.delete(tab) || shared.tabs.size > 0) return;
    this.#channels.delete(channel);
    shared.subscription?.unsubscribe();
  }
}
