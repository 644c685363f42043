// Publishes that wait for their answer: one at a time for each channel, so that order holds across retries, each with
// an idempotency key, so that a retry makes no second event. Pure: must not know fetch, timers or the clock.
import type { Limits } from './limits';
import { TidewireError } from './types';

export interface Publish { channel: string; body: string | Uint8Array; headers: Record<string, string> }
export interface Outcome { id: string; time: string; duplicate: boolean }

interface Entry { publish: Publish; done: (outcome: Outcome) => void; failed: (error: TidewireError) => void; attempts: number; tries: number; dueMs: number; sent: boolean }

/** An answer, or `status` 0 where none came. */
export interface Answer { status: number; outcome?: Outcome; error?: TidewireError; retryAfterMs?: number }

export class Outbox {
  #queues = new Map<string, Entry[]>();
  #size = 0;
  #refused = false;

  constructor(readonly limits: Limits, readonly random: () => number) {}

  handlePublish(publish: Publish, done: Entry['done'], failed: Entry['failed']): void {
    if (this.#size >= this.limits.publishQueueMax) {
      return failed(new TidewireError('queue_full', `${this.#size} publishes wait for the server already: await them, or publish less`));
    }
    const queue = this.#queues.get(publish.channel) ?? [];
    queue.push({ publish, done, failed, attempts: 0, tries: 0, dueMs: 0, sent: false });
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

  /** The network is back: what waits is tried at once. */
  handleHurry(): void {
    for (const [entry] of this.#queues.values()) if (entry) entry.dueMs = 0;
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
    const passing = answer.status === 0 || answer.status === 408 || answer.status === 429 || answer.status >= 500 && answer.status !== 501 && answer.status !== 505;
    const again = passing || (answer.status === 401 && !this.#refused);
    // Being offline says nothing of the publish: only answers count as attempts.
    if (answer.status !== 0) entry.attempts++;
    if (!again || entry.attempts >= this.limits.publishAttemptsMax) {
      this.#drop(channel, queue);
      return entry.failed(answer.error ?? new TidewireError('unreachable', 'the server did not answer', answer.status));
    }
    if (answer.status === 401) this.#refused = true;
    const most = Math.min(this.limits.backoffMaxMs, this.limits.backoffBaseMs * 2 ** Math.min(entry.tries++, 20));
    entry.dueMs = nowMs + Math.min(this.limits.serverDelayMaxMs, Math.max(answer.retryAfterMs ?? 0, answer.status === 401 ? 0 : this.random() * most));
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
