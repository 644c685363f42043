// Tokens and tickets that end, and users who are sent away, by the real server. Must not know timers of the client.
import { afterEach, beforeEach, expect, test } from 'vitest';
import WebSocket from 'ws';
import { Tidewire } from '../src/index';
import type { TidewireOptions, TransportName } from '../src/index';
import { FaultProxy } from './proxy';
import { Server, WITH_TOKENS, token, until } from './server';

let server: Server;
let proxy: FaultProxy;
let url: string;
let client: Tidewire;
let got: unknown[];
let states: string[];

beforeEach(async () => {
  server = await new Server().start(WITH_TOKENS);
  proxy = new FaultProxy(3);
  url = await proxy.listen();
  proxy.targetPort = server.port;
  got = [];
  states = [];
});
afterEach(async () => {
  client.close();
  await proxy.close();
  await server.stop();
});

function subscribe(options: TidewireOptions): void {
  client = new Tidewire(url, { WebSocket, ...options, onState: (state, { error }) => states.push(error ? `${state} ${error.code}` : state) });
  client.channel('c').subscribe({ since: 'earliest', onEvent: ({ data }) => got.push(data) });
}

async function publish(from: number, to: number): Promise<void> {
  for (let n = from; n < to; n++) await server.publish('c', n);
  await until(() => `${to} events: ${got}, ${states}`, () => got.length >= to);
  expect(got).toEqual(Array.from({ length: to }, (_, n) => n));
}

test('a token that expires is replaced on the connection that there is', async () => {
  let asked = 0;
  subscribe({ transports: ['websocket'], token: () => token(++asked === 1 ? 2 : 600) });
  await publish(0, 3);
  await until('another token', () => asked === 2);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await publish(3, 6);
  expect(states).toEqual(['connecting', 'open']);
});

test.each<TransportName>(['sse', 'longpoll'])('%s: a token that expires is replaced by the next request', async (transport) => {
  let asked = 0;
  subscribe({ transports: [transport], token: () => (asked++, token(2)) });
  await publish(0, 3);
  const before = asked;
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  await publish(3, 6);
  expect(asked).toBeGreaterThan(before);
});

test.each<TransportName>(['websocket', 'sse', 'longpoll'])('%s: tickets are got anew for each request', async (transport) => {
  const tickets: string[] = [];
  const ticket = async () => {
    const answer = await fetch(`${server.url}/v1/tickets`, { method: 'POST', headers: { Authorization: `Bearer ${token(600)}` } });
    tickets.push(((await answer.json()) as { ticket: string }).ticket);
    return tickets.at(-1)!;
  };
  subscribe({ transports: [transport], ticket });
  await publish(0, 3);
  proxy.cut();
  await publish(3, 6);
  expect(tickets.length).toBeGreaterThan(1);
  expect(new Set(tickets).size).toBe(tickets.length);
});

test('whom the application disconnects comes back and resumes', async () => {
  subscribe({ transports: ['websocket'], token: () => token(600) });
  await publish(0, 3);
  await server.admin('users/u/disconnect');
  await publish(3, 6);
  expect(states).toEqual(['connecting', 'open', 'waiting', 'connecting', 'open']);
});

test('revoked tokens are not repeated: one fresh one is asked for, and where it is as bad, that is all', async () => {
  let asked = 0;
  const revoked = token(600);
  subscribe({ transports: ['websocket', 'sse'], token: () => (asked++, revoked) });
  await publish(0, 3);
  await server.admin('users/u/revoke');
  await until(() => `the end: ${states}`, () => client.state === 'failed', 30_000);
  expect(states.at(-1)).toBe('failed unauthenticated');
  const before = [asked, proxy.counts.connections];
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect([asked, proxy.counts.connections]).toEqual(before);
  expect(asked).toBeLessThanOrEqual(6);
}, 40_000);
