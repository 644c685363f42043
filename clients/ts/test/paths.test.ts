// Bad paths, and machines that sleep, against the real server through the proxy. The client's bounds of time are
// shorter here than they are, so that waiting for them takes no minutes; the fake clock has them as they are.
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import WebSocket from 'ws';
import { Tidewire } from '../src/index';
import type { TransportName } from '../src/index';
import { FaultProxy, NO_FAULTS } from './proxy';
import { Server, until } from './server';

vi.mock('../src/limits', async (original) => ({
  ...(await original<object>()),
  welcomeTimeoutMs: 400, streamSilenceMs: 1_000, pingAfterMs: 500, pongTimeoutMs: 500, pathBadMs: 2_500, stableMs: 300, tickMs: 100,
}));

let server: Server;
let proxy: FaultProxy;
let url: string;
let client: Tidewire;
let got: unknown[];
let states: string[];

beforeEach(async () => {
  server = await new Server().start('[limits]\nheartbeat_ms = 300\ndrain_window_ms = 2000\n');
  proxy = new FaultProxy(4);
  url = await proxy.listen();
  proxy.targetPort = server.port;
  got = [];
  states = [];
});
afterEach(async () => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
  client.close();
  await proxy.close();
  await server.stop();
});

function subscribe(transports: TransportName[]): void {
  client = new Tidewire(url, { WebSocket, transports, onState: (state, { transport }) => states.push(`${transport} ${state}`) });
  client.channel('c').subscribe({ since: 'earliest', onEvent: ({ data }) => got.push(data) });
}

let published = 0;
beforeEach(() => void (published = 0));

async function publish(): Promise<void> {
  for (let n = 0; n < 3; n++) await server.publish('c', published++);
  await until(() => `${published} events: ${got}, ${states}`, () => got.length >= published);
  expect(got).toEqual(Array.from({ length: published }, (_, n) => n));
}

const last = (state: string) => until(() => `${state}: ${states}`, () => states.at(-1) === state);

test.each([['upgrades are refused', true, 0], ['answers to upgrades do not come', false, 0], ['frames are swallowed', false, 1]])('where %s the next transport is taken, and the best one when it works again', async (_, refused, passes) => {
  const websockets = /upgrade: websocket/i;
  if (refused) proxy.refuseHead = websockets;
  else proxy.muteHead = websockets;
  proxy.mutePasses = passes;
  subscribe(['websocket', 'sse']);
  await publish();
  expect(states.at(-1)).toBe('sse open');
  // Remembered: while it is, a cut does not lead back to what was bad.
  const tries = states.filter((state) => state === 'websocket connecting').length;
  await new Promise((resolve) => setTimeout(resolve, 400));
  proxy.cut();
  await publish();
  expect(states.filter((state) => state === 'websocket connecting')).toHaveLength(tries);
  proxy.refuseHead = proxy.muteHead = undefined;
  await last('websocket open');
  await publish();
});

test('a stream that is held back is left for polls', async () => {
  proxy.muteHead = /text\/event-stream/;
  proxy.mutePasses = 0;
  subscribe(['sse', 'longpoll']);
  await publish();
  expect(states.at(-1)).toBe('longpoll open');
});

test.each<TransportName>(['websocket', 'sse'])('%s: a connection of which nothing comes any more is left, by the missing sign of life', async (transport) => {
  subscribe([transport]);
  await publish();
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(states).toEqual([`${transport} connecting`, `${transport} open`]);
  proxy.faults = { ...NO_FAULTS, swallow: 1 };
  await last(`${transport} waiting`);
  proxy.faults = NO_FAULTS;
  await publish();
});

test('a machine that slept connects anew at once', async () => {
  subscribe(['websocket']);
  await publish();
  const now = Date.now.bind(Date);
  vi.spyOn(Date, 'now').mockImplementation(() => now() + 3_600_000);
  await until(() => `the second connection: ${states}`, () => states.length >= 4);
  await publish();
  expect(states).toEqual(['websocket connecting', 'websocket open', 'websocket connecting', 'websocket open']);
});

test('while a server is away it is asked less and less often, and at once when the network is back', async () => {
  const page = new EventTarget();
  vi.stubGlobal('addEventListener', page.addEventListener.bind(page));
  vi.stubGlobal('removeEventListener', page.removeEventListener.bind(page));
  vi.spyOn(Math, 'random').mockReturnValue(1);
  proxy.faults = { ...NO_FAULTS, refuse: 1 };
  subscribe(['websocket']);
  const times: number[] = [];
  for (let tries = 1; tries <= 4; tries++) {
    await until(`try ${tries}`, () => proxy.counts.refuse >= tries);
    times.push(performance.now());
  }
  const pauses = times.slice(1).map((time, n) => time - times[n]!);
  expect(pauses[0]).toBeGreaterThan(400);
  expect(pauses[1]).toBeGreaterThan(900);
  expect(pauses[2]).toBeGreaterThan(1_900);
  await last('websocket waiting');
  proxy.faults = NO_FAULTS;
  const startMs = performance.now();
  page.dispatchEvent(new Event('online'));
  await last('websocket open');
  expect(performance.now() - startMs).toBeLessThan(1_000);
  await publish();
});

test('the time at which a server that goes away wants its clients back is kept', async () => {
  let dueMs = NaN;
  class Listening extends WebSocket {
    constructor(address: string, protocols: string[]) {
      super(address, protocols);
      this.on('message', (data) => {
        const told = /"after_ms":\[(\d+), ?\1\]/.exec(new TextDecoder().decode(data as ArrayBuffer));
        if (told) dueMs = performance.now() + Number(told[1]);
      });
    }
  }
  client = new Tidewire(url, { WebSocket: Listening, transports: ['websocket'], onState: (state, { transport }) => states.push(`${transport} ${state}`) });
  client.channel('c').subscribe({ since: 'earliest', onEvent: ({ data }) => got.push(data) });
  await publish();
  await Promise.all([server.end('SIGTERM'), last('websocket waiting')]);
  const { connections } = proxy.counts;
  proxy.targetPort = (await server.start()).port;
  // Not even the network's return is a reason to come earlier than all others.
  client.hurry();
  await until('the return', () => proxy.counts.connections > connections);
  expect(Math.abs(performance.now() - dueMs)).toBeLessThan(300);
  await publish();
});
