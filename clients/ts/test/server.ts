// Starts the server under test on a port of its choice, with a log that outlives it. Must not know any test.
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const BINARY = process.env.TIDEWIRE_BIN ?? new URL('../../../target/release/tidewire', import.meta.url).pathname;

const ADMIN_KEY = 'the admin key of this test';
const SECRET = 'the secret that this test and its server share';

/** Tokens of `token()` are good, for channels as they say. */
export const WITH_TOKENS = '[auth]\nadmin_key_file = "admin.key"\nleeway_seconds = 0\n[[auth.issuers]]\nsecret_file = "secret"\n';

export function token(forSeconds: number, channels = ['*'], user = 'u'): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const seconds = Math.floor(Date.now() / 1_000);
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, iat: seconds, exp: seconds + forSeconds, tidewire: { subscribe: channels, publish: channels } })}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

export class Server {
  url = '';
  port = 0;
  #folder = mkdtempSync(join(tmpdir(), 'tidewire-sdk-'));
  #child: ChildProcess | undefined;
  #config = '';
  #key: Record<string, string> = {};

  /** Another one with the same log, configuration and port. */
  async restart(): Promise<void> {
    await this.end('SIGTERM');
    await this.start(this.#config, this.port);
  }

  async start(config = '', port = 0): Promise<this> {
    this.#config = config;
    writeFileSync(join(this.#folder, 'admin.key'), ADMIN_KEY, { mode: 0o600 });
    writeFileSync(join(this.#folder, 'secret'), SECRET, { mode: 0o600 });
    const file = join(this.#folder, 'tidewire.toml');
    writeFileSync(file, config);
    const child = spawn(BINARY, ['serve', '--listen', `127.0.0.1:${port}`, '--data', join(this.#folder, 'data'), '--no-demo', '--config', file], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TIDEWIRE_LOG__LEVEL: 'error' },
    });
    this.#child = child;
    this.#key = config.includes('admin_key_file') ? { Authorization: `Bearer ${ADMIN_KEY}` } : {};
    let line = '';
    for await (const piece of child.stdout!) {
      line += piece;
      if (/^listening on \S+\n/.test(line)) break;
    }
    this.url = /^listening on (\S+)/.exec(line)?.[1] ?? '';
    if (!this.url) throw new Error(`the server did not start: ${line}`);
    this.port = Number(new URL(this.url).port);
    return this;
  }

  /** What the application asks of the server about its users. */
  async admin(path: string): Promise<void> {
    const answer = await fetch(`${this.url}/v1/admin/${path}`, { method: 'POST', headers: this.#key });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  }

  async publish(channel: string, data: unknown): Promise<string> {
    const answer = await fetch(`${this.url}/v1/channels/${channel}/events`, { method: 'POST', headers: { 'Content-Type': 'application/json', ...this.#key }, body: JSON.stringify(data) });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    return ((await answer.json()) as { id: string }).id;
  }

  /** The whole log, read without the client. */
  async log(channel: string): Promise<unknown[]> {
    const events: unknown[] = [];
    for (let since = 'earliest', more = true; more; ) {
      const answer = await (await fetch(`${this.url}/v1/channels/${channel}/events?since=${since}&limit=1000`)).json() as { events: { data: unknown }[]; cursor: string; more: boolean };
      events.push(...answer.events.map((event) => event.data));
      ({ cursor: since, more } = answer);
    }
    return events;
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  async stop(): Promise<void> {
    await this.end('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export async function until(what: string | (() => string), condition: () => unknown, deadlineMs = 20_000): Promise<void> {
  const end = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for: ${typeof what === 'string' ? what : what()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
