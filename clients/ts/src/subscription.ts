// One subscription as the application sees it: its options, its callbacks, its iterators. Must not know connections.
import * as limits from './limits';
import { TidewireError } from './types';
import type { Gap, Snapshot, SubscriptionState, TidewireEvent } from './types';

export interface SubscribeOptions {
  /** An id or cursor to go on after, `earliest`, or `latest` (the default). */
  since?: string;
  /** Get the state first, and again after a gap. */
  snapshot?: boolean;
  onEvent?: (event: TidewireEvent) => void;
  onSnapshot?: (snapshot: Snapshot) => void;
  onGap?: (gap: Gap) => void;
  onState?: (state: SubscriptionState, error?: TidewireError) => void;
}

/** Iterating it without an `onEvent` reads from the subscription's start, once; leaving that loop unsubscribes. */
export interface Subscription extends AsyncIterable<TidewireEvent> {
  /** Where it stands: keep it, and give it as `since` to go on there, also with another client. */
  readonly cursor: string | undefined;
  unsubscribe(): void;
}

export interface Listener {
  options: SubscribeOptions;
  ended: ((error?: TidewireError) => void)[];
  events: ((event: TidewireEvent) => void)[];
}

/** What a callback throws is the application's: reported as such, it must not end the connection. */
export function guard(call: () => void): void {
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

export function iterate(listener: Listener, left: () => void): AsyncIterator<TidewireEvent> {
  const queue: TidewireEvent[] = [];
  let wake = () => {};
  let over = false;
  let failure: TidewireError | undefined;
  const give = (event: TidewireEvent) => {
    if (over) return;
    if (queue.length >= limits.iteratorQueueMax) end(new TidewireError('slow_reader', `${queue.length} events wait for the iterator: read faster, or use onEvent`));
    else queue.push(event);
    wake();
  };
  const end = (error?: TidewireError) => {
    over = true;
    failure ??= error;
    wake();
  };
  listener.events.push(give);
  listener.ended.push(end);
  return {
    async next() {
      while (queue.length === 0 && !over) await new Promise<void>((resolve) => (wake = resolve));
      const value = queue.shift();
      if (value) return { value, done: false };
      if (failure) throw failure;
      return { value: undefined, done: true };
    },
    async return() {
      over = true;
      queue.length = 0;
      listener.events = listener.events.filter((each) => each !== give);
      left();
      return { value: undefined, done: true };
    },
  };
}
