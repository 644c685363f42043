// Pages of other origins in a real browser: one that may use the server, and one that must be kept out.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { start } from './server.mjs';

const SECRET = 'a secret of this test and its server, long enough';

function token(rights) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 60;
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'ann', exp, tidewire: rights })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

// A page with nothing on it. Browsers send cookies to all ports of a host, so what keeps its pages apart is `Origin`.
async function serve_page() {
  const pages = createServer((_, answer) => {
    answer.setHeader('Content-Type', 'text/html');
    answer.end('<!doctype html><title>a page</title>');
  });
  await new Promise((resolve) => { pages.listen(0, '127.0.0.1', resolve); });
  return { url: `http://127.0.0.1:${pages.address().port}`, stop: () => pages.close() };
}

let server, browser, allowed, evil;

before(async () => {
  [allowed, evil] = [await serve_page(), await serve_page()];
  const secret = join(mkdtempSync(join(tmpdir(), 'tidewire-')), 'secret');
  writeFileSync(secret, SECRET, { mode: 0o600 });
  server = await start({
    config: `origins = ["${allowed.url}"]\nauth.cookie = "session"\n[[auth.issuers]]\nsecret_file = "${secret}"`,
  });
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--headless', '--no-sandbox'] });
});

after(async () => {
  await browser?.close();
  await server?.stop();
  allowed?.stop();
  evil?.stop();
});

// What a page gets when it tries every way in, with the cookie that the browser has for the server.
async function try_all(url, bearer) {
  const context = await browser.newContext();
  await context.addCookies([{
    name: 'session', value: token({ subscribe: ['c'], publish: ['c'] }), url: server.url, sameSite: 'Lax',
  }]);
  const page = await context.newPage();
  await page.goto(url);
  const outcome = await page.evaluate(async ([base, bearer]) => {
    const events = `${base}/v1/channels/c/events`;
    const status = (url, options) => fetch(url, options).then((answer) => answer.status, () => 'kept out');
    const post = { method: 'POST', body: 'hello', headers: { 'Content-Type': 'text/plain' } };
    const opened = (thing) => new Promise((resolve) => {
      thing.onopen = () => resolve('open');
      thing.onerror = () => resolve('kept out');
    });
    const websockets = base.replace('http', 'ws') + '/v1/ws';
    const source = new EventSource(events, { withCredentials: true });
    const socket = new WebSocket(websockets);
    const both = Promise.all([opened(source), opened(socket)]);
    const ticket = await fetch(`${base}/v1/tickets`, { method: 'POST', credentials: 'include' })
      .then(async (answer) => (await answer.json()).ticket, () => 'kept out');
    const by_ticket = await opened(new WebSocket(`${websockets}?ticket=${ticket}`));
    const [sse, websocket] = await both;
    source.close();
    socket.close();
    return {
      sse, websocket, by_ticket,
      read: await status(events, { credentials: 'include' }),
      publish: await status(events, { ...post, credentials: 'include' }),
      preflighted: await status(events, {
        ...post, credentials: 'include', headers: { 'Idempotency-Key': 'k', 'Tidewire-Event': 'e' },
      }),
      bearer: await status(events, { headers: { Authorization: `Bearer ${bearer}`, 'Last-Event-ID': '' } }),
      form: await fetch(events, { ...post, mode: 'no-cors', credentials: 'include' }).then((a) => a.type, () => 'none'),
    };
  }, [server.url, bearer]);
  await context.close();
  return outcome;
}

async function published() {
  const headers = { Authorization: `Bearer ${token({ history: ['c'] })}` };
  const answer = await fetch(`${server.url}/v1/channels/c/events`, { headers });
  return (await answer.json()).events.length;
}

test('a page of an allowed origin gets in, cookies included', async () => {
  assert.deepEqual(await try_all(allowed.url, token({ subscribe: ['c'] })), {
    sse: 'open', websocket: 'open', by_ticket: 'open', read: 200, publish: 201, preflighted: 201, bearer: 200,
    form: 'opaque',
  });
  assert.equal(await published(), 3);
});

test('a page of another origin is kept out, whatever it tries', async () => {
  const before_it = await published();
  const outcome = await try_all(evil.url, token({ subscribe: ['c'] }));
  // A browser sends a simple request before it looks whether the page may; it must have no effect.
  assert.equal(outcome.form, 'opaque');
  delete outcome.form;
  assert.deepEqual(new Set(Object.values(outcome)), new Set(['kept out']), JSON.stringify(outcome));
  assert.equal(await published(), before_it);
});
