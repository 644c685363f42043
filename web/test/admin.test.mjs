// Owns: the admin page's promises, checked in a real browser against servers of its own.
// Must not know: the page's modules. It sees what an operator sees.
//
//   [TIDEWIRE_BIN=PATH] [SCREENSHOT_DIR=DIR] node --test
//
// Waits are for conditions; the times below only bound them.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const BINARY = process.env.TIDEWIRE_BIN ?? fileURLToPath(new URL('../../target/release/tidewire', import.meta.url));
const KEY = 'the admin key of this test';
const WIDE = { width: 1440, height: 900 };
const NARROW = { width: 360, height: 740 };
const PATIENCE_MS = 30_000;
const CONFIG = `
shards = 2
auth.admin_key_file = "admin.key"
rights.subscribe = "anyone"
rights.history = "anyone"
rights.publish = "anyone"
limits.drain_notice_ms = 1500
`;
const LAUNCH = {
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};

let directory;
let browser;
let page;
let server;
const complaints = [];

/** Starts a server; `url` is where it listens, `admin` where the page is, `ended` its exit code once it has one. */
async function serve({ config = CONFIG, listen = '127.0.0.1:0' } = {}) {
  await writeFile(join(directory, 'tidewire.toml'), config);
  const flags = ['serve', '--listen', listen, '--no-demo', '--memory', '--config', join(directory, 'tidewire.toml')];
  const child = spawn(BINARY, flags, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, TIDEWIRE_LOG__LEVEL: 'error' } });
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  let text = '';
  child.stdout.setEncoding('utf8');
  const lines = config.includes('admin.listen') ? 2 : 1;
  await new Promise((resolve, reject) => {
    child.stdout.on('data', (more) => {
      text += more;
      if (text.split('\n').length > lines) resolve();
    });
    child.once('exit', () => reject(new Error(`the server did not start: ${text}`)));
  });
  const [, url] = /listening on (http:\/\/\S+)/.exec(text);
  const [, admin = url] = /admin API is at (http:\/\/\S+)/.exec(text) ?? [];
  return { url, admin, text, child, ended, stop: () => (child.kill(), ended) };
}

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tidewire-admin-'));
  await writeFile(join(directory, 'admin.key'), KEY, { mode: 0o600 });
  server = await serve();
  browser = await chromium.launch(LAUNCH);
  page = await newPage();
});

after(async () => {
  await browser?.close();
  await server?.stop();
  if (directory) await rm(directory, { recursive: true });
});

async function newPage() {
  const context = await browser.newContext({ viewport: WIDE });
  const opened = await context.newPage();
  opened.setDefaultTimeout(PATIENCE_MS);
  // What the network says of a refused or broken request is the test's own doing.
  opened.on('console', (message) => {
    if (message.type() === 'error' && !/Failed to load resource|WebSocket connection/.test(message.text())) complaints.push(message.text());
  });
  opened.on('pageerror', (error) => complaints.push(error.stack));
  await opened.exposeFunction('complain', (text) => complaints.push(text));
  await opened.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      window.complain(`CSP: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  return opened;
}

const seen = (selector) => page.waitForSelector(selector);
const text = (selector) => page.locator(selector).first().textContent();

async function logIn(where = server.admin) {
  await page.goto(`${where}/admin`);
  await page.waitForFunction(() => document.body.dataset.view !== 'starting' || !document.querySelector('[data-login]').hidden);
  if (await page.locator('body[data-view="inside"]').count() === 0) {
    await page.fill('#key', KEY);
    await page.keyboard.press('Enter');
  }
  await seen('.session [data-state="live"]');
}

async function open(part) {
  await page.click(`.tabs a[href="#${part}"]`);
  await seen(`[data-part="${part}"]:not([hidden])`);
}

async function publish(channel, data, headers = {}) {
  const answer = await fetch(`${server.url}/v1/channels/${channel}/events`, { method: 'POST', body: data, headers });
  assert.equal(answer.status, 201);
}

/** A client of the server, which listens to a channel over SSE or a WebSocket until it is stopped. */
async function listen(channel, transport) {
  if (transport === 'sse') {
    const abort = new AbortController();
    const answer = await fetch(`${server.url}/v1/channels/${channel}/events`, { headers: { accept: 'text/event-stream' }, signal: abort.signal });
    const drained = (async () => { for await (const chunk of answer.body) void chunk; })().catch(() => {});
    return () => (abort.abort(), drained);
  }
  // A browser's own, on a page of the server that does nothing else.
  const other = await (await browser.newContext()).newPage();
  await other.goto(`${server.url}/healthz`);
  await other.evaluate((path) => new Promise((resolve, reject) => {
    window.socket = new WebSocket(`ws://${location.host}${path}`);
    window.socket.onopen = () => resolve();
    window.socket.onerror = () => reject(new Error('no WebSocket'));
  }), `/v1/channels/${channel}/ws`);
  return () => other.context().close();
}

async function metric(line) {
  const exposition = await (await fetch(`${server.url}/metrics`)).text();
  return Number(exposition.split('\n').find((found) => found.startsWith(`${line} `)).split(' ')[1]);
}

async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const tile = (key, part) => `[data-tile="${key}"] .${part}`;
const numberIn = (shown) => Number(/[\d,.]+/.exec(shown)?.[0].replaceAll(',', ''));

test('the page is strict and keeps nothing', async () => {
  const response = await page.goto(`${server.url}/admin`);
  const headers = response.headers();
  assert.equal(headers['cache-control'], 'no-store');
  assert.match(headers['content-security-policy'], /default-src 'none'/);
  assert.match(headers['content-security-policy'], /frame-ancestors 'none'/);
  assert.ok(!/unsafe|data:|\*/.test(headers['content-security-policy']));
  assert.ok(!(await response.text()).includes(KEY));
});

test('a wrong key is said to be wrong, and the right one opens', async () => {
  await page.goto(`${server.url}/admin`);
  await page.fill('#key', 'not the key at all');
  await page.keyboard.press('Enter');
  await seen('[data-login-result][data-kind="bad"]');
  assert.match(await text('[data-login-result]'), /not the server's admin key/);
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.fill('#key', KEY);
  await page.keyboard.press('Enter');
  await seen('.session [data-state="live"]');
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  assert.equal(await page.evaluate(() => document.cookie), '');
  await page.reload();
  await seen('.session [data-state="live"]');
});

test('figures move with the load, agree with the metrics, and the busy channel is on top', async () => {
  await logIn();
  const stops = await Promise.all(['sse', 'sse', 'websocket', 'websocket', 'websocket'].map((transport) => listen('busy', transport)));
  await publish('idle', 'once');
  await until('five streams', async () => /3 WebSocket/.test(await text(tile('connections', 'aside'))));
  let is_over = false;
  const load = (async () => {
    while (!is_over) await Promise.all([1, 2, 3, 4].map((number) => publish('busy', `${number}`)));
  })();
  await page.waitForFunction(() => Number(document.querySelector('[data-tile="published"] .value').textContent.replaceAll(',', '')) > 5);
  await page.waitForFunction(() => /^[\d.]+ (ms|s)$/.test(document.querySelector('[data-tile="latency"] .value').textContent));
  await page.selectOption('[data-top-channels-by]', 'published');
  await page.waitForFunction(() => document.querySelector('[data-top-channels] tbody td.name')?.textContent === 'busy');
  await page.selectOption('[data-top-channels-by]', 'subscribers');
  await page.waitForFunction(() => {
    const cells = document.querySelector('[data-top-channels] tbody tr').cells;
    return cells[0].textContent === 'busy' && cells[3].textContent === '5';
  });
  await page.selectOption('[data-talkers-by]', 'messages');
  await page.waitForFunction(() => document.querySelector('[data-talkers] tbody td.name')?.textContent === '127.0.0.1');
  await screenshots('overview');
  is_over = true;
  await load;
  // Once nothing is published any more, both say the same.
  await until('the page agrees with the metrics', async () => (
    numberIn(await text(tile('published', 'aside'))) === await metric('tidewire_events_published_total')));
  await until('as many WebSockets', async () => (
    numberIn(await text(tile('connections', 'aside'))) === await metric('tidewire_connections{transport="websocket"}')));
  assert.equal(await metric('tidewire_connections{transport="websocket"}'), 3);
  await Promise.all(stops.map((stop) => stop()));
  await until('they are gone', async () => /^0 WebSocket/.test(await text(tile('connections', 'aside'))));
});

test('refusals are told by their code', async () => {
  await logIn();
  await fetch(`${server.url}/v1/nothing`);
  await page.waitForFunction(() => document.querySelector('[data-refused]').textContent.includes('not_found'));
});

test('channels are found by their beginning, page by page, and deleted', async () => {
  await Promise.all(Array.from({ length: 60 }, (_, number) => publish(`list:${String(number).padStart(2, '0')}`, 'x')));
  await publish('other', 'x');
  await logIn();
  await open('channels');
  await page.fill('#prefix', 'list:');
  await page.keyboard.press('Enter');
  const names = () => page.$$eval('[data-channels] td.name', (cells) => cells.map((cell) => cell.textContent));
  await until('the first page', async () => (await names()).length === 50 && (await names())[0] === 'list:00');
  await page.click('[data-channels-next]');
  await until('the second page', async () => (await names()).join() === Array.from({ length: 10 }, (_, number) => `list:${50 + number}`).join());
  await screenshots('channels');
  await page.click('[aria-label="Delete list:59"]');
  await seen('dialog[open]');
  await page.click('[data-dialog-cancel]');
  assert.equal((await (await fetch(`${server.url}/v1/channels/list:59`)).json()).events, 1);
  await page.click('[aria-label="Delete list:59"]');
  await page.click('[data-dialog-do]');
  await page.waitForFunction(() => document.querySelector('[data-channels-result]').textContent.includes('list:59 was deleted'));
  assert.equal((await (await fetch(`${server.url}/v1/channels/list:59`)).json()).events, 0);
});

for (const transport of ['websocket', 'sse', 'long-poll', 'poll']) {
  test(`the console hears what it publishes over ${transport}`, async () => {
    await logIn();
    await open('console');
    await page.fill('#channel', `console:${transport}`);
    await page.check(`[name="transport"][value="${transport}"]`);
    await page.click('[data-listen]');
    await seen('[data-listen-state="listening"]');
    await page.fill('#name', 'grüße');
    await page.fill('#event-key', 'k');
    await page.fill('#data', '{"n":1}');
    // A long poll that is under way when something is published may be the one before it was held.
    await page.click('[data-publish-form] button[type="submit"]');
    await seen('[data-publish-result][data-kind="good"]');
    await page.waitForFunction(() => {
      const cells = document.querySelector('[data-events] tbody tr')?.cells;
      return cells?.length === 6 && cells[4].textContent === '{"n":1}';
    });
    const cells = await page.$$eval('[data-events] tbody tr:first-child td', (all) => all.map((cell) => cell.textContent));
    assert.match(cells[1], /^[\d.]+ (ms|s)$/);
    assert.deepEqual(cells.slice(2, 5), ['grüße', 'k', '{"n":1}']);
    if (transport === 'websocket') await screenshots('console');
    await page.click('[data-stop]');
    await seen('[data-listen-state="stopped"]');
  });
}

test('the page comes back where it was when the server is started anew', async () => {
  await logIn();
  const { url } = server;
  await server.stop();
  await seen('.session [data-state="reconnecting"]');
  await seen('[data-notice]:not([hidden])');
  await screenshots('reconnecting');
  server = await serve({ listen: url.replace('http://', '') });
  await seen('.session [data-state="live"]');
  await page.waitForSelector('[data-notice]', { state: 'hidden' });
});

test('on a port of its own, the page has the console there, and clients find nothing', async () => {
  const other = await serve({ config: `${CONFIG}admin.listen = "127.0.0.1:0"\n` });
  try {
    assert.notEqual(other.admin, other.url, other.text);
    assert.equal((await fetch(`${other.url}/admin`)).status, 404);
    assert.equal((await fetch(`${other.admin}/v1/channels/a/events`)).status, 404);
    await logIn(other.admin);
    await open('console');
    for (const transport of ['websocket', 'sse']) {
      await page.fill('#channel', 'apart');
      await page.check(`[name="transport"][value="${transport}"]`);
      await page.click('[data-listen]');
      await seen('[data-listen-state="listening"]');
      await page.fill('#data', `"${transport}"`);
      await page.click('[data-publish-form] button[type="submit"]');
      await page.waitForFunction((data) => document.querySelector('[data-events] tbody tr')?.cells[4]?.textContent === data, `"${transport}"`);
      await page.click('[data-stop]');
    }
  } finally {
    await page.goto('about:blank');
    await other.stop();
  }
});

/** A Redis on a free port that keeps nothing, as a backplane's URL. */
async function startRedis() {
  const port = await new Promise((resolve) => {
    const free = createServer().listen(0, '127.0.0.1', () => {
      const { port: found } = free.address();
      free.close(() => resolve(found));
    });
  });
  const child = spawn('redis-server', ['--bind', '127.0.0.1', '--port', `${port}`, '--save', '', '--appendonly', 'no', '--dir', directory]);
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve, reject) => {
    child.stdout.on('data', (text) => /Ready to accept/.test(text) && resolve());
    child.once('exit', () => reject(new Error('redis-server did not start')));
  });
  return { url: `redis://127.0.0.1:${port}`, stop: () => (child.kill(), ended) };
}

test('servers that share a backplane are shown on each of them, and no longer when they are gone', async () => {
  const redis = await startRedis();
  const config = `backplane = "${redis.url}"\n${CONFIG}`;
  const [one, two] = [await serve({ config }), await serve({ config })];
  const port_of = ({ url }) => url.split(':').at(-1);
  const rows = () => page.$$eval('[data-servers] tbody tr', (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
  const shown = async (wanted) => {
    const names = (await rows()).map(([name]) => name);
    return names.length === wanted.length && wanted.every((found) => names.some((name) => name.replace(' (this one)', '').endsWith(`:${port_of(found)}`)));
  };
  const before = server;
  try {
    server = two;
    const stop = await listen('shared', 'websocket');
    await logIn(one.admin);
    await until('both are there', () => shown([one, two]));
    const this_one = (await rows()).filter(([name]) => name.endsWith('(this one)'));
    assert.equal(this_one.length, 1);
    assert.ok(this_one[0][0].includes(port_of(one)));
    await until('the connection to the other one', async () => (await rows()).some(([name, , , , connections]) => name.endsWith(port_of(two)) && Number(connections) > 0));
    assert.match(await text('[data-cluster-sums]'), /^2 servers, \d+ connections/);
    await screenshots('servers');
    await page.setViewportSize(NARROW);
    const [wide, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= inner, `${wide} wide in ${inner}`);
    await page.setViewportSize(WIDE);
    await stop();
    await two.stop();
    await until('the other one is gone', () => shown([one]));
    assert.match(await text('[data-cluster-sums]'), /^1 server,/);
  } finally {
    server = before;
    await page.goto('about:blank');
    await Promise.all([one.stop(), two.stop()]);
    await redis.stop();
  }
  await logIn();
  assert.ok(await page.locator('[data-cluster]').isHidden());
});

test('nothing overflows sideways, and everything can be reached by keyboard', async () => {
  await logIn();
  for (const part of ['overview', 'channels', 'users', 'console']) {
    await open(part);
    for (const viewport of [WIDE, NARROW]) {
      await page.setViewportSize(viewport);
      const [wide, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= inner, `${part} is ${wide} wide in ${inner}`);
    }
    const unreachable = await page.$$eval('button, input, select, textarea, a', (all) => all.filter((node) => node.tabIndex < 0).length);
    assert.equal(unreachable, 0);
  }
  await page.setViewportSize(WIDE);
});

test('draining takes the word, shows who is left, and ends the server in order', async () => {
  await logIn();
  const stop = await listen('held', 'websocket');
  await page.click('[data-drain-open]');
  await seen('dialog[open]');
  assert.ok(await page.locator('[data-dialog-do]').isDisabled());
  await page.fill('#word', 'drian');
  assert.ok(await page.locator('[data-dialog-do]').isDisabled());
  await page.fill('#word', 'drain');
  await page.click('[data-dialog-do]');
  await seen('.session [data-state="draining"]');
  assert.match(await text('[data-notice]'), /\d+ other connections left/);
  await screenshots('draining');
  assert.equal(await server.ended, 0);
  await seen('.session [data-state="reconnecting"]');
  assert.match(await text('[data-notice]'), /has drained/);
  await stop();
});

test('the console of the browser stayed clean and no policy was violated', () => {
  assert.deepEqual(complaints, []);
});

async function screenshots(name) {
  const folder = process.env.SCREENSHOT_DIR;
  if (!folder) return;
  await mkdir(folder, { recursive: true });
  for (const [viewport, colorScheme] of [[WIDE, 'light'], [WIDE, 'dark'], [NARROW, 'light']]) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(folder, `admin-${name}-${viewport.width}-${colorScheme}.png`), fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize(WIDE);
}
