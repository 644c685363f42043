// Starts the server under test on a free port, and stops it. Must not know any test.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const BINARY = process.env.TIDEWIRE_BIN ?? new URL('../../target/debug/tidewire', import.meta.url).pathname;

/** @returns a running server: its `url` (`secure`: the one over TLS), `publish(channel, data, headers)`, and `stop()`. */
export async function start({ config = '', port = 0 } = {}) {
  const file = join(mkdtempSync(join(tmpdir(), 'tidewire-')), 'tidewire.toml');
  writeFileSync(file, config);
  const listen = ['serve', '--listen', `127.0.0.1:${port}`, '--memory', '--no-demo', '--config', file];
  const child = spawn(BINARY, listen, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TIDEWIRE_LOG__LEVEL: 'warn' },
  });
  const lines = config.includes('[tls]') ? /^listening on (\S+)\nand on (\S+)\n/ : /^listening on (\S+)\n/;
  let line = '';
  for await (const piece of child.stdout) {
    line += piece;
    if (lines.test(line)) break;
  }
  const [, url, secure] = lines.exec(line) ?? [];
  if (!url) throw new Error(`the server did not start: ${line}`);
  return {
    url,
    secure,
    port: Number(new URL(url).port),
    async publish(channel, data, headers = { 'Content-Type': 'application/json' }) {
      const answer = await fetch(`${url}/v1/channels/${channel}/events`, { method: 'POST', body: data, headers });
      if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
      return (await answer.json()).id;
    },
    async stop() {
      if (child.exitCode === null) {
        child.kill('SIGTERM');
        await once(child, 'exit');
      }
    },
  };
}

/** Waits until `condition()` gives something true, and gives that; fails with what was waited for. */
export async function until(what, condition, deadlineMs = 10_000) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
