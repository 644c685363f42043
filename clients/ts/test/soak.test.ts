// Two hundred clients on all transports, through a proxy that breaks what it can by a printed seed, while the server
// behind it is killed and drained in turn; afterwards each client holds exactly the log.
//   SOAK_SECONDS (12)   how long it is broken; from 60 on the proxy also swallows what servers send
//   SOAK_SEED           to repeat the decisions of a run
import { EventSource } from 'eventsource';
import { expect, test } from 'vitest';
import WebSocket from 'ws';
import { Tidewire } from '../src/index';
import type { Subscription, TidewireEvent, TransportName } from '../src/index';
import { FaultProxy, NO_FAULTS, seeded } from './proxy';
import { Server, until } from './server';

const CLIENTS = 200;
const CHANNELS = 10;
const RESTART_EVERY_MS = 4_000;
const PUBLISH_EVERY_MS = 100;
/** Publishes of one channel without an answer yet; more would meet the client's own bound. */
const WAITING_MAX = 50;
/** Longest backoff, and a request that began right before the faults ended, each twice over. */
const SETTLE_MS = 120_000;
const TRANSPORTS: TransportName[] = ['websocket', 'sse', 'eventsource', 'longpoll', 'poll'];
const OPTIONS = { WebSocket, EventSource: EventSource as unknown as typeof globalThis.EventSource };

const seconds = Number(process.env.SOAK_SECONDS ?? 12);
const seed = Number(process.env.SOAK_SEED ?? Math.floor(Math.random() * 2 ** 31));
const random = seeded(seed + 1);
const failures: string[] = [];

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** One client with one channel from the start, which it leaves and takes up again, and another that it adds later. */
class Reader {
  readonly client: Tidewire;
  readonly transports: TransportName[];
  readonly got = new Map<string, unknown[]>();
  #last = new Map<string, string>();
  #subscription: Subscription;

  constructor(url: string, readonly n: number) {
    const at = Math.floor(n / CHANNELS) % TRANSPORTS.length;
    // Every other client may fall back, from where it begins to whatever comes after.
    this.transports = n % 2 ? [TRANSPORTS[at]!] : [...TRANSPORTS.slice(at), ...TRANSPORTS.slice(0, at)];
    this.client = new Tidewire(url, { ...OPTIONS, transports: this.transports });
    this.#subscription = this.#subscribe(this.first);
  }

  get first(): string {
    return `soak:${this.n % CHANNELS}`;
  }

  get second(): string {
    return `soak:${(this.n + 1) % CHANNELS}`;
  }

  addSecond(): void {
    this.#subscribe(this.second);
  }

  leaveAndReturn(): void {
    this.#subscription.unsubscribe();
    this.#subscription = this.#subscribe(this.first);
  }

  #subscribe(channel: string): Subscription {
    const got = this.got.get(channel) ?? [];
    this.got.set(channel, got);
    return this.client.channel(channel).subscribe({
      since: this.#last.get(channel) ?? 'earliest',
      onEvent: ({ data, id }: TidewireEvent) => {
        got.push(data);
        this.#last.set(channel, id);
      },
      onGap: (gap) => failures.push(`${this.transports[0]}: a gap ${JSON.stringify(gap)}`),
      onState: (state, error) => state === 'failed' && failures.push(`${this.transports[0]}: ${error?.code} ${error?.message}`),
    });
  }
}

test('after a soak every client holds exactly the log', { timeout: seconds * 1_000 + SETTLE_MS + 60_000 }, async () => {
  console.log(`SOAK_SEED=${seed} SOAK_SECONDS=${seconds}`);
  const server = await new Server().start();
  const proxy = new FaultProxy(seed);
  const url = await proxy.listen();
  proxy.targetPort = server.port;
  const readers = Array.from({ length: CLIENTS }, (_, n) => new Reader(url, n));
  const writer = new Tidewire(url, OPTIONS);
  const published = Array.from({ length: CHANNELS }, () => [] as number[]);
  const answered = published.map(() => 0);
  const answers: Promise<unknown>[] = [];
  try {
    proxy.faults = { ...NO_FAULTS, refuse: 0.1, drop: 0.01, delay: 0.1, truncate: 0.01, halfClose: 0.01, swallow: seconds < 60 ? 0 : 0.001 };
    const startMs = Date.now();
    const atRandom = () => startMs + random() * seconds * 1_000;
    const changes = readers.flatMap((reader) => [
      { atMs: atRandom(), change: () => reader.addSecond() },
      { atMs: atRandom(), change: () => reader.leaveAndReturn() },
    ]).sort((a, b) => a.atMs - b.atMs);
    let restartMs = startMs + RESTART_EVERY_MS;
    let restarts = 0;
    while (Date.now() < startMs + seconds * 1_000) {
      for (const [n, numbers] of published.entries()) {
        if (numbers.length - answered[n]! >= WAITING_MAX) continue;
        numbers.push(numbers.length);
        answers.push(writer.channel(`soak:${n}`).publish(numbers.length - 1).then(() => answered[n]!++).catch((error: unknown) => failures.push(`a publish: ${error}`)));
      }
      while (changes[0] && changes[0].atMs <= Date.now()) changes.shift()!.change();
      await pause(PUBLISH_EVERY_MS);
      if (Date.now() < restartMs) continue;
      await server.end(restarts++ % 2 ? 'SIGTERM' : 'SIGKILL');
      await pause(random() * 500);
      proxy.targetPort = (await server.start()).port;
      restartMs = Date.now() + RESTART_EVERY_MS;
    }
    for (const { change } of changes) change();
    proxy.faults = NO_FAULTS;
    // As a network that forgets its connections: those of which nothing passes any more would be noticed in minutes only.
    proxy.cutSwallowed();
    await Promise.all(answers);
    const logs = new Map<string, unknown[]>(await Promise.all(published.map(async (_, n) => [`soak:${n}`, await server.log(`soak:${n}`)] as const)));
    expect([...logs.values()]).toEqual(published);
    const behind = () => readers.flatMap((reader) => [reader.first, reader.second].map((channel) => ({ channel, reader, got: reader.got.get(channel)! })))
      .filter(({ channel, got }) => got.length < logs.get(channel)!.length);
    const say = () => `the rest: ${behind().map(({ channel, reader, got }) => `${channel} ${reader.n} ${reader.transports[0]} ${got.length} ${reader.client.state}`)}`;
    await until(say, () => behind().length === 0 || failures.length > 0, SETTLE_MS);
    expect(failures).toEqual([]);
    for (const { got } of readers) for (const [channel, data] of got) expect(data).toEqual(logs.get(channel));
    expect(restarts).toBeGreaterThan(0);
    console.log(`${published.flat().length} events, ${CLIENTS} clients, ${restarts} restarts, ${JSON.stringify(proxy.counts)}, settled after ${Date.now() - startMs - seconds * 1_000} ms`);
  } finally {
    for (const { client } of readers) client.close();
    writer.close();
    await proxy.close();
    await server.stop();
  }
});
