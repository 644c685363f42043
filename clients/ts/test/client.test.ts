// The built client against the real server, through the proxy. Every transport by the same tests.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';
import { Tidewire } from '../src/index';
import type { Gap, TransportName } from '../src/index';
import { FaultProxy } from './proxy';
import { Server, until } from './server';

let server: Server;
let proxy: FaultProxy;
let client: Tidewire;
let states: string[];

const connect = (transports: TransportName[]) => (client = new Tidewire(url, { transports, WebSocket, EventSource: EventSource as unknown as typeof globalThis.EventSource, onState: (state, { transport }) => states.push(`${transport} ${state}`) }));
let url = '';

beforeEach(async () => {
  server = await new Server().start();
  proxy = new FaultProxy(1);
  url = await proxy.listen();
  proxy.targetPort = server.port;
  states = [];
});
afterEach(async () => {
  client?.close();
  await proxy.close();
  await server.stop();
});

describe.each<TransportName>(['websocket', 'sse', 'eventsource', 'longpoll', 'poll'])('%s', (transport) => {
  test('gets two channels in order, and goes on after a cut, a kill and a drain without loss or repeat', async () => {
    const seen: Record<string, unknown[]> = { a: [], b: [] };
    connect([transport]);
    for (const name of ['a', 'b']) client.channel(name).subscribe({ since: 'earliest', onEvent: ({ data }) => seen[name]!.push(data) });
    const expected: number[] = [];
    const publish = async () => {
      for (let round = 0; round < 5; round++) {
        expected.push(expected.length);
        for (const name of ['a', 'b']) await server.publish(name, expected.length - 1);
      }
      await until(() => `all of ${expected}: ${JSON.stringify(seen)}, ${states}`, () => seen.a!.length >= expected.length && seen.b!.length >= expected.length);
      expect(seen).toEqual({ a: expected, b: expected });
    };
    await publish();
    proxy.cut();
    await publish();
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      await server.end(signal);
      proxy.targetPort = (await server.start()).port;
      await publish();
    }
  });

  test('state first, then what comes after it; a channel added later begins from now', async () => {
    await server.publish('s', 1);
    await server.publish('later', 'before');
    const got: unknown[] = [];
    connect([transport]);
    let subscribed = 0;
    const onState = (state: string) => void (state === 'subscribed' && subscribed++);
    client.channel('s').subscribe({ snapshot: true, onSnapshot: ({ state }) => got.push((state as { data: unknown }).data), onEvent: ({ data }) => got.push(data), onState });
    await until('the state', () => got.length === 1 && subscribed === 1);
    client.channel('later').subscribe({ onEvent: ({ data }) => got.push(data), onState });
    await until('both', () => client.state === 'open' && subscribed >= 2);
    if (transport !== 'websocket') await until('both again', () => subscribed >= 3);
    await server.publish('s', 2);
    await until('the next', () => got.length >= 2);
    await server.publish('later', 3);
    await until('the added', () => got.length >= 3);
    expect(got).toEqual([1, 2, 3]);
  });

  test('a gap is told, and healed by a snapshot when asked', async () => {
    const id = await server.publish('g', 1);
    await server.publish('g', 2);
    await fetch(`${server.url}/v1/channels/g`, { method: 'DELETE' });
    await server.publish('g', 3);
    const gaps: Gap[] = [];
    const got: unknown[] = [];
    connect([transport]);
    client.channel('g').subscribe({
      since: id, snapshot: true, onGap: (gap) => gaps.push(gap),
      onSnapshot: ({ state }) => got.push(['state', (state as { data: unknown }).data]), onEvent: ({ data }) => got.push(data),
    });
    await until('the state', () => got.length >= 1);
    await server.publish('g', 4);
    await until('the next', () => got.length >= 2);
    expect(got).toEqual([['state', 3], 4]);
    expect(gaps).toMatchObject([{ channel: 'g', requested: id }]);
  });
});

test.each<TransportName>(['websocket', 'sse'])('%s: a channel that is refused fails alone', async (transport) => {
  const config = 'auth.admin_key_file = "admin.key"\n[[channels]]\npattern = "open"\nrights.subscribe = "anyone"\nrights.history = "anyone"\nrights.publish = "anyone"\n';
  await server.end('SIGTERM');
  proxy.targetPort = (await server.start(config)).port;
  connect([transport]);
  const got: unknown[] = [];
  const failed: unknown[] = [];
  client.channel('closed').subscribe({ onState: (state, error) => state === 'failed' && failed.push(error?.code) });
  const subscription = client.channel('open').subscribe({ since: 'earliest', onEvent: ({ data }) => got.push(data) });
  await until('the refusal', () => failed.length === 1);
  const id = await server.publish('open', 1);
  await until('the event', () => got.length === 1);
  expect(failed).toEqual(['unauthenticated']);
  expect(subscription.cursor).toBe(id);
});

test('falls back where upgrades are refused', async () => {
  proxy.refuseHead = /upgrade: websocket/i;
  connect(['websocket', 'sse']);
  const got: unknown[] = [];
  client.channel('f').subscribe({ since: 'earliest', onEvent: ({ data }) => got.push(data) });
  await server.publish('f', 1);
  await until('the event', () => got.length === 1);
  expect(states.at(-1)).toBe('sse open');
});

test('a refused token is not repeated beyond a fresh one', async () => {
  await server.end('SIGTERM');
  proxy.targetPort = (await server.start('auth.admin_key_file = "admin.key"\n')).port;
  let asked = 0;
  client = new Tidewire(url, { transports: ['sse'], token: () => `bad-${++asked}` });
  const error = await new Promise<{ code: string; status: number } | undefined>((resolve) => {
    client.channel('x').subscribe({ onState: (state, why) => state === 'failed' && resolve(why) });
  });
  expect(error).toMatchObject({ code: 'unauthenticated', status: 401 });
  expect(asked).toBe(2);
});

test('publishes that begin offline arrive once, in order, and an iterator gets them', async () => {
  proxy.faults = { ...proxy.faults, refuse: 1 };
  connect(['websocket']);
  const tooMany = Array.from({ length: 1_000 }, () => client.channel('bounded').publish(0));
  const refused = await client.channel('bounded').publish(0).catch((error: { code: string }) => error.code);
  expect(refused).toBe('queue_full');
  client.close();
  expect((await Promise.allSettled(tooMany)).every(({ status }) => status === 'rejected')).toBe(true);
  connect(['websocket']);
  const outcomes = [1, 2, 3].map((data) => client.channel('p').publish(data));
  const subscription = client.channel('p').subscribe({ since: 'earliest' });
  await until('a refusal', () => proxy.counts.refuse > 1);
  proxy.faults = { ...proxy.faults, refuse: 0 };
  expect((await Promise.all(outcomes)).map(({ duplicate }) => duplicate)).toEqual([false, false, false]);
  const got: unknown[] = [];
  for await (const { data } of subscription) if (got.push(data) === 3) break;
  expect(got).toEqual([1, 2, 3]);
  expect(await server.log('p')).toEqual([1, 2, 3]);
});
