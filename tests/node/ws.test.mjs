// Node's `ws`, a WebSocket client that we did not write, against the server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { once } from 'node:events';
import WebSocket from 'ws';
import { start, until } from './server.mjs';

let server;
before(async () => { server = await start(); });
after(() => server.stop());

const wsUrl = (path) => server.url.replace('http', 'ws') + path;

async function open(path, protocols = [], options = {}) {
  const socket = new WebSocket(wsUrl(path), protocols, options);
  const messages = [];
  socket.on('message', (data, isBinary) => messages.push(isBinary ? data : JSON.parse(data)));
  await once(socket, 'open');
  return { socket, messages, send: (message) => socket.send(JSON.stringify(message)) };
}

test('subscribes, publishes and receives over one socket', async () => {
  const { socket, messages, send } = await open('/v1/ws', 'tidewire.v1');
  assert.equal(socket.protocol, 'tidewire.v1');
  send({ type: 'subscribe', channel: 'chat:1', id: 1 });
  send({ type: 'publish', channel: 'chat:1', event: 'message', data: { text: 'grüße' }, id: 'p' });
  await until('three messages', () => messages.length === 3);
  const [subscribed, published, event] = messages;
  assert.equal(subscribed.type, 'subscribed');
  assert.equal(subscribed.id, 1);
  assert.deepEqual(Object.keys(published).sort(), ['channel', 'duplicate', 'event_id', 'id', 'type']);
  assert.equal(published.id, 'p');
  assert.equal(event.id, published.event_id);
  assert.deepEqual(event.data, { text: 'grüße' });
  assert.equal(event.event, 'message');
  socket.close(1000);
  const [code] = await once(socket, 'close');
  assert.equal(code, 1000);
});

for (const offer of [true, { serverMaxWindowBits: 9 }, { clientMaxWindowBits: 10 }, { serverNoContextTakeover: true }]) {
  test(`permessage-deflate is agreed on and used: ${JSON.stringify(offer)}`, async () => {
    const { socket, messages, send } = await open('/v1/ws', [], { perMessageDeflate: offer });
    assert.match(socket.extensions, /permessage-deflate/);
    send({ type: 'subscribe', channel: 'deflate', id: 1 });
    await until('the subscription', () => messages.length === 1);
    const before = socket._socket.bytesRead;
    const text = 'the same words again and again '.repeat(300);
    await server.publish('deflate', JSON.stringify({ text }));
    const event = await until('the event', () => messages[1]);
    assert.equal(event.data.text, text);
    const read = socket._socket.bytesRead - before;
    assert.ok(read < text.length / 2, `${read} bytes for a message of ${text.length}`);
    send({ type: 'publish', channel: 'deflate', data: { text }, id: 2 });
    await until('our own event', () => messages.length === 4);
    socket.terminate();
  });
}

test('bytes travel as they are in binary frames', async () => {
  const { socket, messages, send } = await open('/v1/ws');
  send({ type: 'subscribe', channel: 'bytes' });
  await until('the subscription', () => messages.length === 1);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  const short = (text) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  const long = (text) => Buffer.concat([Buffer.from([0, text.length]), Buffer.from(text)]);
  const head = [Buffer.from([2]), short('bytes'), short('m1'), short('frame'), long('k'), short('image/png'), long('')];
  socket.send(Buffer.concat([...head, bytes]));
  await until('reply and event', () => messages.length === 3);
  const published = messages.find((message) => message.type === 'published');
  assert.equal(published.id, 'm1');
  const frame = messages.find((message) => Buffer.isBuffer(message));
  assert.equal(frame[0], 1);
  let at = 1;
  const take = (size) => {
    const length = frame.readUIntBE(at, size);
    at += size + length;
    return frame.toString('utf8', at - length, at);
  };
  assert.deepEqual([take(1), take(1), take(1), take(2), take(1)], ['bytes', published.event_id, 'frame', 'k', 'image/png']);
  const time = Number(frame.readBigUInt64BE(at));
  assert.ok(Math.abs(time - Date.now()) < 60_000);
  assert.deepEqual(frame.subarray(at + 8), bytes);
  socket.terminate();
});

test('raw mode is payloads and nothing else', async () => {
  const one = new WebSocket(wsUrl('/v1/channels/raw/ws'));
  const two = new WebSocket(wsUrl('/v1/channels/raw/ws'));
  const received = [];
  two.on('message', (data, isBinary) => received.push([isBinary, data.toString('latin1')]));
  await Promise.all([once(one, 'open'), once(two, 'open')]);
  one.send('plain');
  one.send('{"a": 1}');
  one.send(Buffer.from([0, 255]));
  one.send('');
  await until('four messages', () => received.length === 4);
  assert.deepEqual(received, [[false, 'plain'], [false, '{"a": 1}'], [true, '\x00\xff'], [false, '']]);
  one.terminate();
  two.terminate();
});

test('a version that is not spoken is told which is', async () => {
  const socket = new WebSocket(wsUrl('/v1/ws'), { protocolVersion: 8 });
  socket.on('error', () => {});
  const [, answer] = await once(socket, 'unexpected-response');
  assert.equal(answer.statusCode, 426);
  assert.equal(answer.headers['sec-websocket-version'], '13');
});

test('stopping the server tells clients to come back', async () => {
  const own = await start();
  const socket = new WebSocket(`${own.url.replace('http', 'ws')}/v1/ws`);
  await once(socket, 'open');
  const message = once(socket, 'message');
  const closed = once(socket, 'close');
  await own.stop();
  const reconnect = JSON.parse((await message)[0]);
  assert.equal(reconnect.type, 'reconnect');
  const [least, most] = reconnect.after_ms;
  assert.ok(least === most && least >= 500 && least <= 3000, 'a delay of its own');
  assert.equal(reconnect.reason, 'drain');
  assert.equal((await closed)[0], 1001);
});
