// What a browser has to load. Must not know what is in it.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const DIST = new URL('../dist/', import.meta.url).pathname;

/** A module and all that it imports. */
function withImports(path: string, seen = new Map<string, Buffer>()): Map<string, Buffer> {
  if (seen.has(path)) return seen;
  seen.set(path, readFileSync(path));
  for (const [, name] of seen.get(path)!.toString().matchAll(/\b(?:from|import)\s*["'`]([^"'`]+)["'`]/g)) withImports(join(dirname(path), name!), seen);
  return seen;
}

test.each([['index.js', 8_000], ['presence.js', 1_000], ['shared.js', 3_000]])('%s is under %i bytes, gzipped', (name, bytesMax) => {
  const modules = [...withImports(join(DIST, name)).values()];
  expect(execFileSync('gzip', ['-9c'], { input: Buffer.concat(modules) }).length).toBeLessThan(bytesMax);
});
