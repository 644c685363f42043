// The npm package `eventsource`, and the browser's own EventSource, WebSocket and fetch, against the server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { EventSource } from 'eventsource';
import { chromium } from 'playwright-core';
import { start, until } from './server.mjs';

let server;
before(async () => { server = await start(); });
after(() => server.stop());

function listen(url, names = ['message']) {
  const events = [];
  const source = new EventSource(url);
  for (const name of names) source.addEventListener(name, (e) => events.push([name, e.data, e.lastEventId]));
  return { source, events };
}

test('lines, names and ids arrive as they were published', async () => {
  const url = `${server.url}/v1/channels/lines/events?since=earliest`;
  const text = { 'Content-Type': 'text/plain' };
  const ids = [
    await server.publish('lines', 'one\ntwo\r\nthree\rfour\n', text),
    await server.publish('lines', ' leading space', { ...text, 'Tidewire-Event': 'tick' }),
    await server.publish('lines', '', text),
    await server.publish('lines', '{"a":\n 1}'),
  ];
  const { source, events } = listen(url, ['message', 'tick']);
  await until('four events', () => events.length === 4);
  assert.deepEqual(events, [
    ['message', 'one\ntwo\nthree\nfour\n', ids[0]],
    ['tick', ' leading space', ids[1]],
    ['message', '', ids[2]],
    ['message', '{"a":\n 1}', ids[3]],
  ]);
  source.close();
});

test('a client that the server cut resumes by itself, with nothing lost', async () => {
  const own = await start({ config: '[limits]\nclose_timeout_ms = 200' });
  const { source, events } = listen(`${own.url}/v1/channels/a/events`);
  await new Promise((resolve) => { source.onopen = resolve; });
  await own.publish('a', '1');
  await until('the first event', () => events.length === 1);
  await own.stop();
  // The history was in memory, so the new server has another epoch: the client must be told of the gap.
  const gaps = [];
  source.addEventListener('tidewire.gap', (e) => gaps.push(JSON.parse(e.data)));
  const again = await start({ port: own.port });
  await again.publish('a', '2');
  await until('the event after the restart', () => events.length === 2, 20_000);
  assert.equal(events[1][1], '2');
  assert.equal(gaps.length, 1);
  assert.equal(gaps[0].channel, 'a');
  assert.equal(gaps[0].requested, events[0][2]);
  source.close();
  await again.stop();
});

test('several channels on one stream, resumed by one id', async () => {
  const url = `${server.url}/v1/events?channel=m:a&channel=m:b`;
  const first = listen(url);
  await new Promise((resolve) => { first.source.onopen = resolve; });
  const ids = [await server.publish('m:a', '1'), await server.publish('m:b', '2'), await server.publish('m:a', '3')];
  await until('three events', () => first.events.length === 3);
  first.source.close();
  assert.deepEqual(first.events.map(([, data]) => JSON.parse(data).id).sort(), [...ids].sort());
  const afterFirst = first.events[0][2];
  const second = listen(`${url}&since=${afterFirst}`);
  await until('the rest', () => second.events.length === 2);
  assert.deepEqual(second.events, first.events.slice(1));
  second.source.close();
});

test('a browser on the page of the server reads the same log three ways', async () => {
  const demo = await start({ config: 'demo = true' });
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  try {
    const page = await browser.newPage();
    // The page of the API's own origin, without the demo's policy, so that a test script may run.
    await page.goto(`${demo.url}/healthz`);
    for (let n = 1; n <= 5; n += 1) await demo.publish('b', String(n));
    const seen = await page.evaluate(async () => {
      const url = `${location.origin}/v1/channels/b/events?since=earliest`;
      const take = (open) => new Promise((resolve) => {
        const events = [];
        open((id) => events.push(id) === 5 && resolve(events));
      });
      const stream = take((got) => { new EventSource(url).onmessage = (e) => got(e.lastEventId); });
      const socket = take((got) => {
        const ws = new WebSocket(`${location.origin.replace('http', 'ws')}/v1/ws`, 'tidewire.v1');
        ws.onopen = () => ws.send(JSON.stringify({ type: 'subscribe', channel: 'b', since: 'earliest' }));
        ws.onmessage = (e) => { const m = JSON.parse(e.data); if (m.type === 'event') got(m.id); };
      });
      const poll = (await (await fetch(url)).json()).events.map((event) => event.id);
      return { stream: await stream, socket: await socket, poll };
    });
    assert.equal(seen.poll.length, 5);
    assert.deepEqual(seen.stream, seen.poll);
    assert.deepEqual(seen.socket, seen.poll);
  } finally {
    await browser.close();
    await demo.stop();
  }
});
