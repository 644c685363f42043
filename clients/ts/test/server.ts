// Starts the server under test on a port of its choice, with a log that outlives it. Must not know any test.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const BINARY = process.env.TIDEWIRE_BIN ?? new URL('../../../target/release/tidewire', import.meta.url).pathname;

export class Server {
  url = '';
  port = 0;
  #folder = mkdtempSync(join(tmpdir(), 'tidewire-sdk-'));
  #child: ChildProcess | undefined;

  async start(config = ''): Promise<this> {
    writeFileSync(join(this.#folder, 'admin.key'), 'the admin key of this test', { mode: 0o600 });
    const file = join(this.#folder, 'tidewire.toml');
    writeFileSync(file, config);
    const child = spawn(BINARY, ['serve', '--listen', '127.0.0.1:0', '--data', join(this.#folder, 'data'), '--no-demo', '--config', file], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TIDEWIRE_LOG__LEVEL: 'error' },
    });
    this.#child = child;
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

  async publish(channel: string, data: unknown): Promise<string> {
    const answer = await fetch(`${this.url}/v1/channels/${channel}/events`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(data) });
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
