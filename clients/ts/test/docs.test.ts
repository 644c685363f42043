// The pages on the client: the reference is of this state, and what is shown in TypeScript compiles against it.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const HERE = new URL('..', import.meta.url).pathname;
const DOCS = join(HERE, '../../docs');
const contents = (folder: string) => Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')]));

test('the reference is fresh (else: npm run docs)', { timeout: 60_000 }, () => {
  const out = mkdtempSync(join(tmpdir(), 'reference-'));
  execFileSync('npx', ['typedoc', '--out', out], { cwd: HERE, stdio: 'pipe' });
  expect(contents(join(DOCS, 'sdk'))).toEqual(contents(out));
  rmSync(out, { recursive: true });
});

test('what is shown in TypeScript compiles', { timeout: 60_000 }, () => {
  // Within the package, where its modules are found.
  const folder = join(HERE, 'node_modules/.snippets');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const pages = [join(HERE, 'README.md'), ...readdirSync(DOCS).filter((name) => name.endsWith('.md')).map((name) => join(DOCS, name))];
  let count = 0;
  for (const page of pages) {
    for (const [, kind, code] of readFileSync(page, 'utf8').matchAll(/^```(tsx?)\n(.*?)^```$/gms)) {
      // As they are of modules that would be each on its own, their names do not meet.
      writeFileSync(join(folder, `snippet-${++count}.${kind}`), `${code}\nexport {};\n`);
    }
  }
  expect(count).toBeGreaterThan(4);
  const options = { ...JSON.parse(readFileSync(join(HERE, 'tsconfig.json'), 'utf8')).compilerOptions, noEmit: true, skipLibCheck: true, types: ['react'], lib: ['es2022', 'dom', 'dom.iterable'], paths: { tidewire: ['../../dist/index.d.ts'], 'tidewire/*': ['../../dist/*.d.ts'] }, noUnusedLocals: false };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['*.ts', '*.tsx'] }));
  try {
    execFileSync('npx', ['tsc', '-p', folder], { cwd: HERE, stdio: 'pipe' });
  } catch (error) {
    throw new Error(String((error as { stdout: Buffer }).stdout));
  }
});
