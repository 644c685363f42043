// Being present, by the real server's word, over every transport. Must not know how members are kept.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import WebSocket from 'ws';
import { Tidewire, TidewireError } from '../src/index';
import type { TransportName } from '../src/index';
import { enter, watchMembers } from '../src/presence';
import { FaultProxy } from './proxy';
import { Server, until } from './server';

const CONFIG = 'limits.presence_grace_ms = 300\nlimits.presence_ms = 1500\nlimits.member_bytes = 50\n';

let server: Server;
let proxy: FaultProxy;
let clients: Tidewire[];
let url: string;

beforeEach(async () => {
  server = await new Server().start(CONFIG);
  proxy = new FaultProxy(1);
  url = await proxy.listen();
  proxy.targetPort = server.port;
  clients = [];
});
afterEach(async () => {
  clients.forEach((client) => client.close());
  await proxy.close();
  await server.stop();
});

function connect(transport: TransportName, at = url): Tidewire {
  const client = new Tidewire(at, { transports: [transport], WebSocket });
  clients.push(client);
  return client;
}

/** Who is there, by the server's own word. */
async function members(): Promise<Record<string, unknown>> {
  const { state } = (await (await fetch(`${server.url}/v1/channels/room/presence`)).json()) as { state: { key: string; data: { data: unknown } }[] };
  return Object.fromEntries(state.map(({ key, data }) => [key, data.data]));
}

async function there(expected: Record<string, unknown>): Promise<void> {
  let found = '';
  const wanted = JSON.stringify(expected);
  await until(() => `${wanted}, not ${found}`, async () => (found = JSON.stringify(await members())) === wanted);
}

describe.each<TransportName>(['websocket', 'sse', 'longpoll', 'poll'])('%s', (transport) => {
  test('enters, shows something else, is seen by others, and leaves', async () => {
    const [ann, bob] = [connect(transport), connect(transport)];
    const seen: string[] = [];
    watchMembers(bob, 'room', (all) => seen.push([...all.values()].map(({ member, data }) => `${member}=${JSON.stringify(data)}`).join()));
    ann.channel('room').subscribe();
    await until('the watch', () => seen.length > 0);
    const presence = enter(ann, 'room', { member: 'ann', data: 1 });
    await there({ ann: 1 });
    presence.update({ typing: true });
    await there({ ann: { typing: true } });
    await presence.leave();
    await there({});
    await until(() => JSON.stringify(seen), () => seen.at(-1) === '' && seen.length > 1);
    expect(seen.filter((now, at) => now !== seen[at - 1])).toEqual(['', 'ann=1', 'ann={"typing":true}', '']);
  });

  test('is there again after a cut and after a server that knows nobody', async () => {
    const ann = connect(transport);
    ann.channel('room').subscribe({ since: 'earliest' });
    enter(ann, 'room', { member: 'ann' });
    await there({ ann: null });
    proxy.cut();
    await server.end('SIGKILL');
    proxy.targetPort = (await server.start(CONFIG)).port;
    await there({ ann: null });
  });

  test('stays for longer than a request holds it, and goes with its client', async () => {
    const ann = connect(transport);
    ann.channel('room').subscribe();
    enter(ann, 'room', { member: 'ann' });
    await there({ ann: null });
    // Twice as long as `presence_ms`: the passing of time is what is tested.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    expect(await members()).toEqual({ ann: null });
    ann.close();
    await there({});
  });

  test('is told what is wrong for good', async () => {
    const ann = connect(transport);
    ann.channel('room').subscribe();
    await until('a connection', () => ann.state === 'open');
    const errors: TidewireError[] = [];
    enter(ann, 'room', { member: 'ann', data: 'x'.repeat(100), onError: (error) => errors.push(error) });
    await until('the refusal', () => errors.length > 0);
    expect(errors.map(({ code }) => code)).toEqual(['payload_too_large']);
    expect(await members()).toEqual({});
  });
});
