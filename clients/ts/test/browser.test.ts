// The built client in a real browser: ten tabs of one origin over HTTP/1.1, of which one holds the connection.
// Must not know how tabs find each other; it sees what pages get, and what the server counts.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chromium } from 'playwright-core';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { CHROMIUM } from './chromium';
import { Server, until } from './server';

const TABS = 10;
const PAGE = `<!doctype html><meta charset="utf-8"><title>tabs</title><script type="module">
  import { Tidewire } from '/index.js';
  import { shareTabs } from '/shared.js';
  const query = new URLSearchParams(location.search);
  // Told apart in what the browser says of its locks.
  navigator.locks?.request('page ' + query.get('name'), () => new Promise(() => {}));
  window.got = {};
  window.states = [];
  window.client = new Tidewire(query.get('server'), { transports: [query.get('transport')], tabs: shareTabs(), onState: (state) => states.push(state) });
  window.subscribe = (channel, options) => new Promise((resolve, reject) => {
    const list = (got[channel] ??= []);
    client.channel(channel).subscribe({
      ...options, onEvent: ({ data }) => list.push(data), onSnapshot: ({ state }) => list.push({ state: state.data }), onGap: () => list.push('gap'),
      onState: (state, error) => state === 'subscribed' ? resolve() : state === 'failed' && reject(error),
    });
  });
</script>`;

let browser: Browser;
let context: BrowserContext;
let files: HttpServer;
let server: Server;
let origin: string;
let tabs: Map<string, Page>;

beforeAll(async () => {
  files = createServer((request, response) => {
    const path = new URL(request.url!, 'http://x').pathname;
    const script = path.endsWith('.js');
    response.setHeader('Content-Type', script ? 'text/javascript' : 'text/html');
    response.end(script ? readFileSync(new URL(`../dist${path}`, import.meta.url)) : PAGE);
  });
  await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(files.address() as AddressInfo).port}`;
  browser = await chromium.launch(CHROMIUM);
});
afterAll(async () => {
  await browser?.close();
  files?.close();
});
beforeEach(async () => {
  server = await new Server().start(`origins = ["${origin}"]\n`);
  context = await browser.newContext();
  tabs = new Map();
});
afterEach(async () => {
  await context.close();
  await server.stop();
});

async function open(name: string, transport: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${origin}/?${new URLSearchParams({ name, transport, server: server.url })}`);
  await page.waitForFunction('window.subscribe');
  tabs.set(name, page);
  return page;
}

const subscribe = (page: Page, channel: string, options: object = {}) => page.evaluate(`subscribe(${JSON.stringify(channel)}, ${JSON.stringify(options)})`);

async function leader(): Promise<string> {
  const [page] = tabs.values();
  const held = (await page!.evaluate('navigator.locks.query().then(({ held }) => held)')) as { name: string; clientId: string }[];
  const lead = held.find(({ name }) => /^tidewire \S+ $/.test(name))!;
  return held.find(({ name, clientId }) => name.startsWith('page ') && clientId === lead.clientId)!.name.slice('page '.length);
}

async function streams(): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return [...text.matchAll(/^tidewire_connections\{transport="(?:websocket|sse|long_poll)"\} (\d+)/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
}

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);
const publish = async (from: number, to: number, channel = 'c') => {
  for (const n of numbers(from, to)) await server.publish(channel, n);
};

async function all(expected: unknown[], channel = 'c', names = [...tabs.keys()]): Promise<void> {
  for (const name of names) {
    const got = () => tabs.get(name)!.evaluate(`window.got[${JSON.stringify(channel)}]`) as Promise<unknown[]>;
    let last: unknown[] = [];
    await until(() => `${name}: ${expected} instead of ${JSON.stringify(last)}`, async () => (last = await got()).length >= expected.length);
    expect([name, await got()]).toEqual([name, expected]);
  }
}

test.each(['websocket', 'sse'])('ten tabs share one %s; its tab closed, then killed, costs nobody an event', async (transport) => {
  for (const n of numbers(0, TABS)) await open(`tab ${n}`, transport);
  await Promise.all([...tabs.values()].map((page) => subscribe(page, 'c', { since: 'earliest' })));
  await publish(0, 20);
  await all(numbers(0, 20));
  expect(await streams()).toBe(1);

  const closed = await leader();
  const closing = publish(20, 60);
  await tabs.get(closed)!.close();
  tabs.delete(closed);
  await closing;
  await all(numbers(0, 60));
  await until('one stream', async () => (await streams()) === 1);

  const killed = await leader();
  expect(killed).not.toBe(closed);
  const killing = publish(60, 100);
  const crash = await context.newCDPSession(tabs.get(killed)!);
  const crashed = new Promise((resolve) => tabs.get(killed)!.once('crash', resolve));
  crash.send('Page.crash').catch(() => {});
  await crashed;
  tabs.delete(killed);
  await killing;
  await all(numbers(0, 100));
  await until('one stream', async () => (await streams()) === 1);
  expect(tabs.size).toBe(TABS - 2);
});

test('tabs have channels of their own, and one that joins later begins where it asks to', async () => {
  await publish(0, 3);
  await publish(0, 3, 'other');
  const first = await open('first', 'sse');
  await subscribe(first, 'c');
  await publish(3, 5);
  await all([3, 4]);
  for (const [name, options] of Object.entries({ earliest: { since: 'earliest' }, latest: {}, snapshot: { snapshot: true } })) await subscribe(await open(name, 'sse'), 'c', options);
  await subscribe(tabs.get('latest')!, 'other', { since: 'earliest' });
  await publish(5, 8);
  await publish(3, 4, 'other');
  await all(numbers(3, 8), 'c', ['first']);
  await all(numbers(0, 8), 'c', ['earliest']);
  await all(numbers(5, 8), 'c', ['latest']);
  await all([{ state: 4 }, 5, 6, 7], 'c', ['snapshot']);
  await all(numbers(0, 4), 'other', ['latest']);
  expect(await tabs.get('first')!.evaluate('Object.keys(got)')).toEqual(['c']);
  expect(await streams()).toBe(1);
});

test('a tab that the browser froze has every event when it thaws, and so do those that it led', async () => {
  for (const name of ['a', 'b', 'c']) await subscribe(await open(name, 'websocket'), 'c', { since: 'earliest' });
  await publish(0, 5);
  await all(numbers(0, 5));
  const name = await leader();
  const page = await context.newCDPSession(tabs.get(name)!);
  await page.send('Page.setWebLifecycleState', { state: 'frozen' });
  await publish(5, 10);
  const others = [...tabs.keys()].filter((each) => each !== name);
  for (const each of others) await tabs.get(each)!.evaluate('client.hurry()');
  await all(numbers(0, 10), 'c', others);
  await page.send('Page.setWebLifecycleState', { state: 'active' });
  await publish(10, 15);
  await all(numbers(0, 15));
});

test('where a browser has no locks, each tab has a connection of its own', async () => {
  await context.addInitScript('Object.defineProperty(Navigator.prototype, "locks", { value: undefined })');
  for (const name of ['a', 'b']) await subscribe(await open(name, 'websocket'), 'c');
  await publish(0, 3);
  await all(numbers(0, 3));
  expect(await streams()).toBe(2);
});
