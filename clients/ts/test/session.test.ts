// The session and the outbox on a clock that only the test moves: what is decided, and when. Must not know sockets.
import { describe, expect, test } from 'vitest';
import * as limits from '../src/limits';
import { Outbox } from '../src/outbox';
import { Session } from '../src/session';
import type { Action } from '../src/session';
import { TidewireError } from '../src/types';
import type { LinkMessage, TransportName } from '../src/types';

/** A session with a clock. `random` is the middle unless told, so that a delay tells its bound. */
class Bench {
  nowMs = 1_000;
  random = 0.5;
  done: Action[] = [];
  session: Session;

  constructor(transports: TransportName[] = ['websocket']) {
    this.session = new Session(transports, () => this.random);
  }

  take(): Action[] {
    const actions = this.session.actions();
    this.done.push(...actions);
    return actions;
  }

  subscribe(channel = 'a', since?: string, snapshot = false): void {
    this.session.handleSubscribe(channel, since, snapshot, this.nowMs);
  }

  tell(message: LinkMessage): void {
    this.session.handleMessage(message, this.nowMs);
  }

  /** Opens the WebSocket and answers every subscribe. */
  open(cursor = 'e-1'): void {
    this.session.handleOpen();
    for (const action of this.take()) {
      if (action.type === 'send' && action.message.type === 'subscribe') {
        this.tell({ type: 'subscribed', channel: String(action.message.channel), cursor, id: Number(action.message.id) });
      }
    }
  }

  event(id: string, data: unknown, channel = 'a'): void {
    this.tell({ type: 'event', event: { channel, id, time: '', data } });
  }

  /** Goes to the next deadline, gives how long that took. */
  wait(): number {
    const waitedMs = this.session.deadlineMs - this.nowMs;
    this.nowMs = this.session.deadlineMs;
    this.session.handleTime(this.nowMs);
    return waitedMs;
  }

  connects(): TransportName[] {
    this.take();
    return this.done.flatMap((action) => (action.type === 'connect' ? action.transport : []));
  }

  events(): unknown[] {
    this.take();
    return this.done.flatMap((action) => (action.type === 'event' ? [action.event.data] : []));
  }

  last<Kind extends Action['type']>(kind: Kind): Extract<Action, { type: Kind }> | undefined {
    this.take();
    return this.done.filter((action): action is Extract<Action, { type: Kind }> => action.type === kind).at(-1);
  }
}

describe('coming back', () => {
  test('the backoff doubles up to its cap, and jitter takes any part of it', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.random = 1;
    const delays = Array.from({ length: 9 }, () => {
      bench.tell({ type: 'closed', code: 1006 });
      return bench.wait();
    });
    expect(delays).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    bench.random = 0;
    bench.tell({ type: 'closed', code: 1006 });
    expect(bench.wait()).toBe(0);
  });

  test('a connection that lasted starts the backoff anew; one that fell at once does not', () => {
    const bench = new Bench();
    bench.subscribe();
    for (const [lastedMs, delayMs] of [[10, 250], [10, 500], [limits.stableMs, 250]]) {
      bench.open();
      bench.nowMs += lastedMs!;
      bench.tell({ type: 'closed', code: 1006 });
      expect(bench.wait()).toBe(delayMs);
    }
  });

  test('it resubscribes after the last event, and what comes twice is given once', () => {
    const bench = new Bench();
    bench.subscribe('a', 'earliest');
    bench.open();
    bench.event('e-1', 1);
    bench.event('e-2', 2);
    bench.tell({ type: 'closed', code: 1006 });
    bench.wait();
    bench.take();
    bench.session.handleOpen();
    expect(bench.last('send')!.message).toMatchObject({ type: 'subscribe', channel: 'a', since: 'e-2' });
    bench.tell({ type: 'subscribed', channel: 'a', cursor: 'e-1', id: Number(bench.last('send')!.message.id) });
    bench.event('e-2', 2);
    bench.event('e-3', 3);
    expect(bench.events()).toEqual([1, 2, 3]);
  });

  test('the window of a server that goes away is obeyed, at random within it', () => {
    for (const [random, delayMs] of [[0, 2_000], [0.5, 16_000], [1, 30_000]]) {
      const bench = new Bench();
      bench.subscribe();
      bench.open();
      bench.random = random!;
      bench.tell({ type: 'reconnect', afterMs: [2_000, 30_000] });
      bench.nowMs += 100;
      bench.tell({ type: 'closed', code: 1001 });
      expect(bench.wait()).toBe(delayMs! - 100);
      expect(bench.connects()).toHaveLength(2);
    }
  });

  test('Retry-After is not undercut, neither by backoff nor by a network that is back', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.tell({ type: 'closed', error: new TidewireError('unavailable', '', 503, 7_000) });
    bench.session.handleHurry(bench.nowMs);
    expect(bench.connects()).toHaveLength(1);
    expect(bench.wait()).toBeGreaterThanOrEqual(7_000);
  });

  test('no server is believed that asks for days', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.tell({ type: 'closed', error: new TidewireError('unavailable', '', 503, 1e12) });
    expect(bench.wait()).toBe(limits.serverDelayMaxMs);
  });

  test('online or visible again means one try at once, then the backoff as before', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.tell({ type: 'closed', code: 1006 });
    for (let times = 0; times < 3; times++) bench.session.handleHurry(bench.nowMs);
    expect(bench.connects()).toHaveLength(2);
    bench.tell({ type: 'closed', code: 1006 });
    bench.session.handleHurry(bench.nowMs);
    expect(bench.connects()).toHaveLength(2);
    expect(bench.wait()).toBeGreaterThan(0);
  });

  test('a sleep shortens the window of a server by as much, and does not end it', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.tell({ type: 'closed', error: new TidewireError('unavailable', '', 503, 60_000) });
    const untilMs = bench.session.deadlineMs - bench.nowMs;
    bench.session.handleWake(bench.nowMs, 20_000);
    expect(bench.session.state).toBe('waiting');
    expect(bench.session.deadlineMs - bench.nowMs).toBe(untilMs - 20_000);
    bench.session.handleWake(bench.nowMs, 3_600_000);
    expect(bench.session.state).toBe('connecting');
  });

  test('after a sleep the old connection is left at once', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.nowMs += 3_600_000;
    bench.session.handleWake(bench.nowMs, 0);
    expect(bench.take().map(({ type }) => type)).toEqual(expect.arrayContaining(['disconnect', 'connect']));
  });
});

describe('what only one channel is guilty of', () => {
  const refused = { type: 'closed', error: new TidewireError('forbidden', 'no', 403) } as const;

  test('is found out where channels are refused together, and fails that channel alone', () => {
    const bench = new Bench(['sse']);
    bench.subscribe('a');
    bench.subscribe('b');
    bench.tell(refused);
    expect(bench.last('connect')!.wants).toMatchObject([{ channel: 'a', alone: true }, { channel: 'b', alone: true }]);
    bench.tell({ type: 'error', channel: 'a', code: 'forbidden', message: 'no' });
    bench.tell({ type: 'position', cursor: 'e-1' });
    expect(bench.last('subscription')).toMatchObject({ channel: 'b', state: 'subscribed' });
    expect(bench.session.state).toBe('open');
  });

  test('is not looked for twice: refused again, all of it is', () => {
    const bench = new Bench(['sse']);
    bench.subscribe('a');
    bench.subscribe('b');
    bench.tell(refused);
    bench.tell(refused);
    expect(bench.session.state).toBe('failed');
  });
});

describe('liveness and fallback', () => {
  test('what is open when the network comes back is asked whether it still is', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.session.handleHurry(bench.nowMs);
    expect(bench.last('send')!.message).toEqual({ type: 'ping' });
    expect(bench.wait()).toBe(limits.pongTimeoutMs);
    expect(bench.session.state).toBe('waiting');
  });

  test('a silent WebSocket is asked, then left; an answer keeps it', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    expect(bench.wait()).toBe(limits.pingAfterMs);
    expect(bench.last('send')!.message).toEqual({ type: 'ping' });
    bench.tell({ type: 'alive' });
    expect(bench.wait()).toBe(limits.pingAfterMs);
    expect(bench.wait()).toBe(limits.pongTimeoutMs);
    expect(bench.session.state).toBe('waiting');
  });

  test('a throttled tab that is called late asks before it judges', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.wait();
    bench.nowMs = bench.session.deadlineMs + 60_000;
    bench.session.handleTime(bench.nowMs, 60_000);
    expect(bench.session.state).toBe('open');
    expect(bench.wait()).toBe(limits.pongTimeoutMs);
    expect(bench.session.state).toBe('waiting');
  });

  test('frames that are swallowed are a missing welcome: the next transport, remembered, then upward again', () => {
    const bench = new Bench(['websocket', 'sse']);
    bench.subscribe();
    for (let failures = 0; failures < limits.pathFailuresMax; failures++) {
      bench.session.handleOpen();
      expect(bench.wait()).toBe(limits.welcomeTimeoutMs);
      bench.wait();
    }
    expect(bench.connects()).toEqual(['websocket', 'websocket', 'sse']);
    bench.tell({ type: 'position', cursor: 'e-1' });
    expect(bench.session.state).toBe('open');
    while (bench.connects().length < 4) {
      bench.tell({ type: 'alive' });
      const dueMs = bench.session.deadlineMs;
      if (dueMs - bench.nowMs < limits.streamSilenceMs) bench.wait();
      else bench.nowMs += 20_000;
      expect(bench.nowMs).toBeLessThan(1_000_000);
    }
    expect(bench.connects().at(-1)).toBe('websocket');
    bench.open();
    expect(bench.session.state).toBe('open');
  });

  test('where nothing works at all, no path is blamed: the best is tried again', () => {
    const bench = new Bench(['websocket', 'sse']);
    bench.subscribe();
    for (let failures = 0; failures < 4; failures++) {
      bench.tell({ type: 'closed' });
      bench.wait();
    }
    expect(bench.connects()).toEqual(['websocket', 'websocket', 'sse', 'sse', 'websocket']);
  });

  test('a stream without even heartbeats is dead', () => {
    const bench = new Bench(['sse']);
    bench.subscribe();
    bench.tell({ type: 'position', cursor: 'e-1' });
    expect(bench.wait()).toBe(limits.streamSilenceMs);
    expect(bench.session.state).toBe('waiting');
  });
});

describe('endings', () => {
  test.each([1002, 1007, 1008, 1009])('close code %i is final', (code) => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.tell({ type: 'closed', code });
    expect(bench.session.state).toBe('failed');
    expect(bench.session.deadlineMs).toBe(Infinity);
    expect(bench.last('subscription')).toMatchObject({ state: 'failed', error: { code: `close_${code}` } });
  });

  test.each([1001, 1006, 1011, 4001, 4002, 4004, 4006, 4007])('close code %i comes back', (code) => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.tell({ type: 'closed', code });
    expect(bench.session.state).toBe('waiting');
  });

  test('revoked tokens get one try with a fresh one', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.tell({ type: 'closed', code: 4005 });
    expect(bench.connects()).toHaveLength(2);
    bench.tell({ type: 'closed', error: new TidewireError('unauthenticated', '', 401) });
    expect(bench.session.state).toBe('failed');
  });

  test('a refused channel fails alone, a limit is tried again later', () => {
    const bench = new Bench();
    bench.subscribe('a');
    bench.subscribe('b');
    bench.take();
    bench.session.handleOpen();
    const sent = bench.take().flatMap((action) => (action.type === 'send' ? [action.message] : []));
    bench.tell({ type: 'error', id: Number(sent[0]!.id), code: 'forbidden', message: 'no' });
    bench.tell({ type: 'error', id: Number(sent[1]!.id), code: 'too_many_requests', message: 'later' });
    expect(bench.last('subscription')).toMatchObject({ channel: 'a', state: 'failed', error: { code: 'forbidden' } });
    bench.wait();
    expect(bench.last('send')!.message).toMatchObject({ type: 'subscribe', channel: 'b' });
  });

  test('a token that expires is asked for anew, without a new connection', () => {
    const bench = new Bench();
    bench.subscribe();
    bench.open();
    bench.take();
    bench.tell({ type: 'expired' });
    expect(bench.take().map(({ type }) => type)).toEqual(['refresh']);
  });
});

test('a gap is told once, and healed by a snapshot where asked', () => {
  const bench = new Bench();
  bench.subscribe('a', undefined, true);
  bench.open();
  const gap = { channel: 'a', requested: 'e-1', resumedFrom: 'e-9' };
  bench.take();
  bench.tell({ type: 'gap', gap });
  const actions = bench.take();
  expect(actions.filter(({ type }) => type === 'gap')).toEqual([{ type: 'gap', gap }]);
  expect(actions.flatMap((action) => (action.type === 'send' ? [action.message] : []))).toMatchObject([
    { type: 'unsubscribe', channel: 'a' },
    { type: 'subscribe', channel: 'a', snapshot: true },
  ]);
  // What was under way before the unsubscribe is part of the state to come.
  bench.event('e-9', 9);
  expect(bench.events()).toEqual([]);
});

describe('publishes', () => {
  const publish = (channel: string, body: string) => ({ channel, body, headers: {} });
  const outcome = { id: 'e-1', time: '', duplicate: false };

  test('leave a channel one at a time, in order, whatever fails between', () => {
    const outbox = new Outbox(() => 1);
    const done: string[] = [];
    for (const body of ['1', '2']) outbox.handlePublish(publish('a', body), () => done.push(body), () => {});
    expect(outbox.pollSend(0).map(({ body }) => body)).toEqual(['1']);
    expect(outbox.pollSend(0)).toEqual([]);
    outbox.handleAnswer('a', {}, 0);
    expect(outbox.pollSend(0)).toEqual([]);
    expect(outbox.deadlineMs).toBe(limits.backoffBaseMs);
    expect(outbox.pollSend(limits.backoffBaseMs).map(({ body }) => body)).toEqual(['1']);
    outbox.handleAnswer('a', { outcome }, 600);
    expect(outbox.pollSend(600).map(({ body }) => body)).toEqual(['2']);
    expect(done).toEqual(['1']);
  });

  test('beyond the bound are refused, and being offline never uses up attempts', () => {
    const outbox = new Outbox(() => 0);
    const failed: string[] = [];
    for (let n = 0; n <= limits.publishQueueMax; n++) outbox.handlePublish(publish('a', ''), () => {}, ({ code }) => failed.push(code));
    expect(failed).toEqual(['queue_full']);
    for (let n = 0; n < limits.publishAttemptsMax * 2; n++) {
      outbox.pollSend(n);
      outbox.handleAnswer('a', {}, n);
    }
    expect(failed).toHaveLength(1);
  });

  test('are tried at once when the network is back, but not before the server said', () => {
    const outbox = new Outbox(() => 1);
    for (const channel of ['a', 'b']) outbox.handlePublish(publish(channel, ''), () => {}, () => {});
    outbox.pollSend(0);
    outbox.handleAnswer('a', {}, 0);
    outbox.handleAnswer('b', { error: new TidewireError('too_many_requests', '', 429, 9_000) }, 0);
    outbox.handleHurry();
    expect(outbox.pollSend(1).map(({ channel }) => channel)).toEqual(['a']);
    expect(outbox.deadlineMs).toBe(9_000);
  });

  test('a refusal that cannot change is told at once; faults of the server a bounded number of times', () => {
    const outbox = new Outbox(() => 0);
    const failed: number[] = [];
    for (const status of [422, 403, 500]) outbox.handlePublish(publish(String(status), ''), () => {}, (error) => failed.push(error.status));
    for (let n = 0; n < limits.publishAttemptsMax; n++) {
      for (const { channel } of outbox.pollSend(n)) outbox.handleAnswer(channel, { error: new TidewireError('x', '', Number(channel)) }, n);
    }
    expect(failed).toEqual([422, 403, 500]);
  });
});
