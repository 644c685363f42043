// A browser over TLS: what needs many connections over HTTP/1.1 needs one over HTTP/2, WebSockets included.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { start, until } from './server.mjs';

const STREAMS = 50;
let server, browser;

before(async () => {
  const directory = mkdtempSync(join(tmpdir(), 'tidewire-'));
  const [certificate, key] = [join(directory, 'certificate.pem'), join(directory, 'key.pem')];
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', certificate,
  ], { stdio: 'ignore' });
  server = await start({
    config: `[tls]\nlisten = "127.0.0.1:0"\ncertificate_file = "${certificate}"\nkey_file = "${key}"\n`,
  });
  server.secure = server.secure.replace('127.0.0.1', 'localhost');
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--ignore-certificate-errors'],
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

async function opened() {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Object.fromEntries([...text.matchAll(/^tidewire_connections\{transport="(\w+)"\} (\d+)$/gm)]
    .map(([, name, count]) => [name, Number(count)]));
}

test('fifty streams and a WebSocket share one connection, and each gets everything', async () => {
  const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
  await page.goto(`${server.secure}/healthz`);
  await page.evaluate(async ([count]) => {
    window.got = Array.from({ length: count }, () => []);
    window.sources = window.got.map((list) => {
      const source = new EventSource('/v1/channels/a/events');
      source.onmessage = (event) => list.push(event.data);
      return source;
    });
    await Promise.all(window.sources.map((source) => new Promise((resolve, reject) => {
      source.onopen = resolve;
      source.onerror = () => reject(new Error('kept out'));
    })));
    window.socket = new WebSocket(`wss://${location.host}/v1/channels/a/ws`);
    window.heard = [];
    window.socket.onmessage = (event) => window.heard.push(event.data);
    await new Promise((resolve, reject) => {
      window.socket.onopen = resolve;
      window.socket.onerror = () => reject(new Error('no WebSocket'));
    });
  }, [STREAMS]);
  const protocols = await page.evaluate(() => performance.getEntriesByType('navigation').map((e) => e.nextHopProtocol));
  assert.deepEqual(protocols, ['h2']);
  const counts = await opened();
  assert.equal(counts.sse, STREAMS);
  assert.equal(counts.websocket, 1);
  // The one that carries them all, and the one that asks; a browser may hold a spare one.
  assert.ok(counts.http <= 3, JSON.stringify(counts));
  const sent = Array.from({ length: 100 }, (_, number) => `event ${number}`);
  for (const data of sent) await server.publish('a', data, { 'Content-Type': 'text/plain' });
  await until('all events on all streams', () => page.evaluate(([last]) => (
    window.got.every((list) => list.at(-1) === last) && window.heard.at(-1) === last
  ), [sent.at(-1)]));
  for (const got of await page.evaluate(() => [...window.got, window.heard])) assert.deepEqual(got, sent);
  await page.evaluate(() => window.sources.slice(0, 25).forEach((source) => source.close()));
  await until('half of the streams to end', async () => (await opened()).sse === STREAMS - 25);
  await page.close();
  await until('the others to end', async () => {
    const left = await opened();
    return left.sse === 0 && left.websocket === 0;
  });
});
