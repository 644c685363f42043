// Tabs that share a connection, as clients in one process with locks and messages of their own, through the proxy.
// What browsers make of it is in `browser.test.ts`.
import { afterEach, beforeEach, expect, test } from 'vitest';
import WebSocket from 'ws';
import { Tidewire } from '../src/index';
import type { Gap, SubscribeOptions, TidewireOptions, TransportName } from '../src/index';
import { Hub } from '../src/tabs/hub';
import { Locks } from './locks';
import { FaultProxy, NO_FAULTS, seeded } from './proxy';
import { Server, WITH_TOKENS, token, until } from './server';

const TABS = 10;

let server: Server;
let proxy: FaultProxy;
let url: string;
let locks: Locks;
let tabs: Tab[];
let room: string;

/** A tab whose page can die or freeze: then it hears nothing, and says nothing. */
class Tab {
  readonly got: unknown[] = [];
  readonly gaps: Gap[] = [];
  readonly states: string[] = [];
  readonly client: Tidewire;
  frozen = false;
  #bus = new BroadcastChannel(room);

  constructor(readonly name: string, transports: TransportName[] = ['websocket'], own: TidewireOptions = {}) {
    const bus: Pick<BroadcastChannel, 'postMessage' | 'onmessage' | 'close'> = {
      onmessage: null,
      postMessage: (message) => this.frozen || this.#bus.postMessage(message),
      close: () => this.#bus.close(),
    };
    this.#bus.onmessage = (message) => this.frozen || bus.onmessage?.call(this.#bus, message);
    this.client = new Tidewire(url, { ...own, transports, WebSocket, tabs: (host) => new Hub(host, { bus, locks: locks.of(name), name: room }), onState: (state) => this.states.push(state) });
    tabs.push(this);
  }

  subscribe(options: SubscribeOptions = {}, channel = 'c') {
    const options_ = { onEvent: ({ data }: { data: unknown }) => this.got.push(data), onGap: (gap: Gap) => this.gaps.push(gap), ...options };
    const subscribed = new Promise<void>((resolve, reject) => (options_.onState = (state, error) => {
      if (state === 'subscribed') resolve();
      if (state === 'failed') reject(error);
    }));
    return { subscription: this.client.channel(channel).subscribe(options_), subscribed };
  }

  die(): void {
    this.frozen = true;
    this.client.close();
    locks.kill(this.name);
  }
}

async function connections(): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return [...text.matchAll(/^tidewire_connections\{transport="(?:websocket|sse)"\} (\d+)/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
}

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);
const publish = async (from: number, to: number, channel = 'c') => {
  for (const n of numbers(from, to)) await server.publish(channel, n);
};
const all = (expected: unknown[], which = tabs) => until(
  () => `${expected}: ${JSON.stringify(which.map(({ name, got, states }) => [name, got, states]))}`, () => which.every(({ got }) => got.length >= expected.length),
).then(() => which.forEach(({ name, got }) => expect([name, got]).toEqual([name, expected])));

beforeEach(async () => {
  server = await new Server().start();
  proxy = new FaultProxy(5);
  url = await proxy.listen();
  proxy.targetPort = server.port;
  locks = new Locks();
  tabs = [];
  room = `test ${Math.random()}`;
});
afterEach(async () => {
  for (const { client } of tabs) client.close();
  await proxy.close();
  await server.stop();
});

test.each<TransportName>(['websocket', 'sse'])('ten tabs hold one %s, and one that dies costs nobody an event', async (transport) => {
  for (const n of numbers(0, TABS)) new Tab(`tab ${n}`, [transport]).subscribe({ since: 'earliest' });
  await publish(0, 20);
  await all(numbers(0, 20));
  expect(await connections()).toBe(1);
  for (let deaths = 1; deaths <= 3; deaths++) {
    const publishing = publish(deaths * 20, deaths * 20 + 20);
    tabs.shift()!.die();
    await publishing;
    await all(numbers(0, deaths * 20 + 20));
  }
  await until('one connection', async () => (await connections()) === 1);
});

test('each tab begins where it asks to, whatever others have', async () => {
  await publish(0, 5);
  const first = new Tab('first');
  await first.subscribe().subscribed;
  await publish(5, 10);
  await all(numbers(5, 10));
  const latest = new Tab('latest');
  await latest.subscribe().subscribed;
  const earliest = new Tab('earliest');
  await earliest.subscribe({ since: 'earliest' }).subscribed;
  const since = (await (await fetch(`${server.url}/v1/channels/c/events?limit=7`)).json() as { cursor: string }).cursor;
  const cursor = new Tab('cursor');
  await cursor.subscribe({ since }).subscribed;
  const snapshot = new Tab('snapshot');
  const states: unknown[] = [];
  await snapshot.subscribe({ snapshot: true, onSnapshot: ({ state }) => states.push((state as { data: unknown }).data) }).subscribed;
  await publish(10, 15);
  await all(numbers(5, 15), [first]);
  await all(numbers(10, 15), [latest, snapshot]);
  await all(numbers(0, 15), [earliest]);
  await all(numbers(7, 15), [cursor]);
  expect(states).toEqual([9]);
  expect(await connections()).toBe(1);
});

test('a channel that no tab wants any more is left, also by tabs that died', async () => {
  const subscriptions = async () => Number(/^tidewire_subscriptions(?:\{[^}]*\})? (\d+)/m.exec(await (await fetch(`${server.url}/metrics`)).text())?.[1]);
  const [keeper, leaver, victim] = ['keeper', 'leaver', 'victim'].map((name) => new Tab(name));
  await keeper!.subscribe().subscribed;
  const { subscription, subscribed } = leaver!.subscribe({}, 'd');
  await Promise.all([subscribed, victim!.subscribe({}, 'e').subscribed]);
  expect(await subscriptions()).toBe(3);
  subscription.unsubscribe();
  victim!.die();
  await until('one subscription', async () => (await subscriptions()) === 1);
});

test('a leader that is frozen is replaced, and not listened to when it thaws', async () => {
  for (const n of numbers(0, 3)) new Tab(`tab ${n}`).subscribe({ since: 'earliest' });
  await publish(0, 5);
  await all(numbers(0, 5));
  const [frozen, ...others] = tabs as [Tab, ...Tab[]];
  frozen.frozen = true;
  await publish(5, 10);
  // As a user who comes back to a tab: otherwise it takes until the session asks by itself.
  for (const { client } of others) client.hurry();
  await all(numbers(0, 10), others);
  frozen.frozen = false;
  await publish(10, 15);
  await all(numbers(0, 15));
}, 30_000);

test('a gap reaches every tab', async () => {
  await publish(0, 3);
  for (const name of ['a', 'b']) await new Tab(name).subscribe({ since: 'earliest' }).subscribed;
  await all(numbers(0, 3));
  proxy.faults = { ...NO_FAULTS, refuse: 1 };
  proxy.cut();
  await server.publish('c', 3);
  await fetch(`${server.url}/v1/channels/c`, { method: 'DELETE' });
  await server.publish('c', 4);
  proxy.faults = NO_FAULTS;
  for (const { client } of tabs) client.hurry();
  await all([0, 1, 2, 4]);
  for (const { gaps } of tabs) expect(gaps).toHaveLength(1);
});

test('a refusal reaches every tab of that channel, and no other', async () => {
  await server.end('SIGTERM');
  proxy.targetPort = (await server.start('[[channels]]\npattern = "secret"\nrights.subscribe = "nobody"\n')).port;
  for (const name of ['a', 'b']) {
    const tab = new Tab(name);
    await tab.subscribe().subscribed;
    await expect(tab.subscribe({}, 'secret').subscribed).rejects.toMatchObject({ code: expect.stringMatching(/forbidden|unauthenticated/) });
  }
  await publish(0, 3);
  await all(numbers(0, 3));
});

test('a leader that the server refuses for good makes room for a tab with better credentials', async () => {
  await server.end('SIGTERM');
  proxy.targetPort = (await server.start(WITH_TOKENS)).port;
  // What becomes of its own subscription depends on who leads when it asks again: one name is one user.
  new Tab('bad', ['sse'], { token: 'expired long ago' }).subscribe().subscribed.catch(() => {});
  const good = new Tab('good', ['sse'], { token: () => token(600) });
  const { subscribed } = good.subscribe({ since: 'earliest' });
  await publish(0, 3);
  await all(numbers(0, 3), [good]);
  await subscribed;
}, 30_000);

test('through faults, restarts and deaths every tab that lives holds exactly the log', async () => {
  const seed = Number(process.env.SOAK_SEED ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`SOAK_SEED=${seed}`);
  const random = seeded(seed);
  proxy.faults = { ...NO_FAULTS, refuse: 0.1, drop: 0.02, delay: 0.1, truncate: 0.02, halfClose: 0.02 };
  const born = () => new Tab(`tab ${Math.floor(random() * 1e9)}`, ['websocket', 'sse', 'longpoll']).subscribe({ since: 'earliest' });
  for (let n = 0; n < TABS; n++) born();
  let published = 0;
  for (let round = 0; round < 12; round++) {
    for (let n = 0; n < 10; n++) await server.publish('c', published++);
    if (round % 3 === 0) {
      await server.end(round % 2 ? 'SIGTERM' : 'SIGKILL');
      proxy.targetPort = (await server.start()).port;
    }
    tabs.splice(Math.floor(random() * tabs.length), 1)[0]!.die();
    tabs.shift()!.die();
    born();
    born();
    await new Promise((resolve) => setTimeout(resolve, random() * 600));
  }
  proxy.faults = NO_FAULTS;
  await all(numbers(0, published));
  for (const { gaps } of tabs) expect(gaps).toEqual([]);
}, 90_000);
