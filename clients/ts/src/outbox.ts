// Publishes that wait for their answer: one at a time for each channel, so that order holds across retries, each with
// an idempotency key, so that a retry makes no second event. Pure: must not know fetch, timers or the clock.
import * as limits from './limits';
import { TidewireError } from './types';

export interface Publish { channel: string; body: string | Uint8Array; headers: Record<string, string> }
/** What became of a publish. `duplicate`: an earlier one with the same idempotency key had made the event. */
export interface Outcome { id: string; time: string; duplicate: boolean }

interface Entry {
  publish: Publish;
  done: (outcome: Outcome) => void;
  failed: (error: TidewireError) => void;
  attempts: number;
  tries: number;
  dueMs: number;
  sent: boolean;
  /** The server said when. */
  told: boolean;
}

/** Neither where no answer came. */
export interface Answer { outcome?: Outcome; error?: TidewireError }

export class Outbox {
  #queues = new Map<string, Entry[]>();
  #size = 0;
  #refused = false;

  constructor(readonly random: () => number) {}

  handlePublish(publish: Publish, done: Entry['done'], failed: Entry['failed']): void {
    if (this.#size >= limits.publishQueueMax) {
      return failed(new TidewireError('queue_full', `${this.#size} publishes wait for the server already: await them, or publish less`));
    }
    const queue = this.#queues.get(publish.channel) ?? [];
    queue.push({ publish, done, failed, attempts: 0, tries: 0, dueMs: 0, sent: false, told: false });
    this.#queues.set(publish.channel, queue);
    this.#size++;
  }

  /** What is to be sent now: the first of each channel, unless it is under way. */
  pollSend(nowMs: number): Publish[] {
    const sends: Publish[] = [];
    for (const [entry] of this.#queues.values()) {
      if (!entry || entry.sent || entry.dueMs > nowMs) continue;
      entry.sent = true;
      sends.push(entry.publish);
    }
    return sends;
  }

  get deadlineMs(): number {
    return Math.min(Infinity, ...[...this.#queues.values()].map(([entry]) => (entry && !entry.sent ? entry.dueMs : Infinity)));
  }

  /** The network is back: what waits is tried at once, but for what the server told to wait. */
  handleHurry(): void {
    for (const [entry] of this.#queues.values()) if (entry && !entry.told) entry.dueMs = 0;
  }

  handleAnswer(channel: string, answer: Answer, nowMs: number): void {
    const queue = this.#queues.get(channel);
    const entry = queue?.[0];
    if (!queue || !entry?.sent) return;
    entry.sent = false;
    if (answer.outcome) {
      this.#refused = false;
      this.#drop(channel, queue);
      return entry.done(answer.outcome);
    }
    const { error } = answer;
    const status = error?.status ?? 0;
    const passing = status === 0 || status === 408 || status === 429 || (status >= 500 && status !== 501 && status !== 505);
    const fresh = status === 401 && !this.#refused;
    // Being offline says nothing of the publish: only answers count as attempts.
    if (status) entry.attempts++;
    if (error && ((!passing && !fresh) || entry.attempts >= limits.publishAttemptsMax)) {
      this.#drop(channel, queue);
      return entry.failed(error);
    }
    if (fresh) this.#refused = true;
    entry.told = error?.retryAfterMs !== undefined;
    entry.dueMs = nowMs + (fresh ? 0 : Math.min(limits.serverDelayMaxMs, Math.max(error?.retryAfterMs ?? 0, this.random() * limits.backoffMs(entry.tries++))));
  }

  handleClose(): void {
    const error = new TidewireError('closed', 'the client was closed before the server answered: whether the event was stored is not known');
    for (const queue of this.#queues.values()) for (const entry of queue) entry.failed(error);
    this.#queues.clear();
    this.#size = 0;
  }

  #drop(channel: string, queue: Entry[]): void {
    queue.shift();
    this.#size--;
    if (queue.length === 0) this.#queues.delete(channel);
  }
}
