// Every snippet of the documents: TypeScript is type-checked against the built package, and what docs/recipes.md has for
// browsers runs in one, against the real server. Must not know what a snippet is for beyond what it shows.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import type { Browser, Page } from 'playwright-core';
import { rolldown } from 'rolldown';
import ts from 'typescript';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest';
import { CHROMIUM } from './chromium';
import { Server, WITH_TOKENS, token, until } from './server';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const CLIENT = join(ROOT, 'clients/ts');
/** Inside the package, where its dependencies are found. */
const FOLDER = join(CLIENT, 'node_modules/.snippets');
const DOCUMENTS = ['clients/ts/README.md', 'docs/reconnecting.md', 'docs/transports.md', 'docs/recipes.md', 'docs/presence.md'];
const PLACEHOLDER = 'https://live.example.com';

interface Snippet { name: string; language: string; code: string }

const snippets = DOCUMENTS.flatMap((document) => {
  let heading = '';
  const found: Snippet[] = [];
  for (const [, title, language, code] of readFileSync(join(ROOT, document), 'utf8').matchAll(/^#+ (.+)$|^```(\w+)\n([^]*?)^```$/gm)) {
    if (title) heading = title;
    else found.push({ name: `${document}: ${heading} ${found.length}`, language: language!, code: code! });
  }
  return found;
});

const recipe = (heading: string) => snippets.find(({ name }) => name.startsWith(`docs/recipes.md: ${heading} `))!.code;

beforeAll(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
});
afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

test('the TypeScript snippets fit the package', () => {
  const typed = snippets.filter(({ language }) => language === 'ts' || language === 'tsx');
  expect(typed.length).toBeGreaterThan(8);
  const files = typed.map(({ language, code }, n) => {
    const file = join(FOLDER, `${n}.${language}`);
    writeFileSync(file, `${code}\nexport {};\n`);
    return file;
  });
  const program = ts.createProgram(files, {
    target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ['lib.es2022.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'], types: [], jsx: ts.JsxEmit.ReactJSX, strict: true, noEmit: true, exactOptionalPropertyTypes: true,
    paths: { tidewire: [join(CLIENT, 'dist/index.d.ts')], 'tidewire/shared': [join(CLIENT, 'dist/shared.d.ts')], 'tidewire/presence': [join(CLIENT, 'dist/presence.d.ts')] },
  });
  const complaints = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
    const at = files.indexOf(file?.fileName ?? '');
    return `${typed[at]?.name ?? file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
  expect(complaints).toEqual([]);
});

describe('in a browser', () => {
  let browser: Browser;
  let page: Page;
  let server: Server;
  let files: HttpServer;
  let origin: string;
  const served = new Map<string, string>();
  const said: string[] = [];

  beforeAll(async () => {
    files = createServer(async (request, response) => {
      // What the snippets expect of the application's own backend.
      if (request.url === '/api/live-token') return void response.end(token(600, ['*'], '42'));
      if (request.url === '/api/live-ticket') {
        const answer = await fetch(`${server.url}/v1/tickets`, { method: 'POST', headers: { Authorization: `Bearer ${token(600, ['*'], '42')}` } });
        return void response.end(((await answer.json()) as { ticket: string }).ticket);
      }
      const body = served.get(request.url!);
      response.setHeader('Content-Type', body === undefined ? 'text/html' : 'text/javascript');
      response.end(body ?? '<!doctype html><title>recipes</title><div id="root"></div>');
    });
    await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${(files.address() as AddressInfo).port}`;
    browser = await chromium.launch(CHROMIUM);
  });
  afterAll(async () => {
    await browser?.close();
    files?.close();
  });
  beforeEach(async () => {
    server = await new Server().start(`origins = ["${origin}"]\n`);
    const context = await browser.newContext({ permissions: ['notifications'] });
    page = await context.newPage();
    said.length = 0;
    page.on('console', (message) => said.push(message.text()));
    page.on('pageerror', (error) => said.push(String(error)));
    await page.goto(origin);
  });
  afterEach(async () => {
    await page.context().close();
    await server.stop();
  });

  const here = (code: string) => code.replaceAll(PLACEHOLDER, server.url).replaceAll(PLACEHOLDER.replace('https', 'wss'), server.url.replace('http', 'ws'));
  const seen = (what: string) => until(() => `${what}: ${said}`, () => said.some((line) => line.includes(what)));

  test.each(['EventSource without this client', 'WebSocket without this client'])('%s: events, also after the server went away', async (heading) => {
    await server.publish('news', { n: 1 });
    await page.addScriptTag({ type: 'module', content: here(recipe(heading)) });
    await until(() => `one: ${said}`, () => said.length === 1);
    const id = await server.publish('news', { n: 2 });
    await seen(id);
    await server.restart();
    const last = await server.publish('news', { n: 3 });
    await seen(last);
    expect(said.filter((line) => /^\w+-\d+ /.test(line))).toHaveLength(3);
    expect(said.filter((line) => line.startsWith('lost'))).toEqual([]);
  });

  /** Runs a snippet as a page would, with its packages in it. */
  async function run(file: string): Promise<void> {
    const bundle = await rolldown({
      input: join(FOLDER, file), platform: 'browser',
      resolve: { alias: { 'tidewire/shared': join(CLIENT, 'dist/shared.js'), 'tidewire/presence': join(CLIENT, 'dist/presence.js'), tidewire: join(CLIENT, 'dist/index.js') } },
      transform: { define: { 'process.env.NODE_ENV': '"development"' } },
    });
    served.set(`/${file}.js`, (await bundle.generate({ format: 'esm' })).output[0].code);
    await bundle.close();
    await page.addScriptTag({ type: 'module', url: `/${file}.js` });
  }

  const publishing = snippets.filter(({ name, language }) => language === 'ts' && !name.includes('Authentication') && !name.startsWith('docs/presence.md'));

  test.each(publishing.map((snippet, n) => ({ ...snippet, n })))('$name gets what is published', async ({ code, n }) => {
    if (!code.includes('subscribe(')) code += "client.channel('orders').subscribe({ since: 'earliest', onEvent: ({ data }) => console.log(data) });";
    if (code.includes('/api/live-token')) await server.end('SIGTERM').then(() => server.start(`origins = ["${origin}"]\n${WITH_TOKENS}`));
    writeFileSync(join(FOLDER, `run-${n}.ts`), here(code));
    await run(`run-${n}.ts`);
    for (const channel of ['chat:1', 'build:7', 'orders', 'scores']) await server.publish(channel, 'done');
    await until(() => `an event: ${said}`, () => said.some((line) => /done|hello|stored|\[ann\]/.test(line)));
    expect(said.filter((line) => /error/i.test(line))).toEqual([]);
  });

  test.each(snippets.filter(({ name, language }) => language === 'ts' && name.includes('Authentication')).map((snippet, n) => ({ ...snippet, n })))('$name lets the user in', async ({ code, n }) => {
    await server.end('SIGTERM');
    await server.start(`origins = ["${origin}"]\n${WITH_TOKENS.replace('[auth]\n', '[auth]\ncookie = "session"\n')}`);
    if (code.includes('credentials')) await page.context().addCookies([{ name: 'session', value: token(600, ['*'], '42'), domain: '127.0.0.1', path: '/' }]);
    if (!code.includes('subscribe(')) code += "client.channel('user:42:inbox').subscribe({ since: 'earliest', onEvent: ({ data }) => console.log(data) });";
    writeFileSync(join(FOLDER, `auth-${n}.ts`), here(code.replace('subscribe({ onEvent', "subscribe({ since: 'earliest', onEvent")));
    await run(`auth-${n}.ts`);
    await server.publish('user:42:inbox', 'welcome');
    await seen('welcome');
    expect(said.filter((line) => /error/i.test(line))).toEqual([]);
  });

  test('the React hook: two lists of one channel', async () => {
    writeFileSync(join(FOLDER, 'messages.tsx'), here(recipe('A React hook')));
    writeFileSync(join(FOLDER, 'app.tsx'), `
      import { StrictMode } from 'react';
      import { createRoot } from 'react-dom/client';
      import { Messages } from './messages';
      const root = createRoot(document.getElementById('root')!);
      const show = (lists: number) => root.render(<StrictMode>{Array.from({ length: lists }, (_, n) => <Messages key={n} channel="chat" />)}</StrictMode>);
      Object.assign(window, { show });
      show(2);
    `);
    await run('app.tsx');
    for (const text of ['one', 'two', 'three']) await server.publish('chat', text);
    const lists = async () => (await page.locator('ul').all()).map(async (list) => (await list.locator('li').allTextContents()).join(' '));
    const shows = (expected: string[]) => until(() => `${expected}: ${said}`, async () => JSON.stringify(await Promise.all(await lists())) === JSON.stringify(expected));
    await shows(['one two three', 'one two three']);
    await page.evaluate('show(0)');
    await shows([]);
    await server.publish('chat', 'four');
    await page.evaluate('show(1)');
    await shows(['one two three four']);
  });

  test('the service worker: what came is shown once', async () => {
    served.set('/worker.js', here(recipe('A service worker')));
    for (const title of ['one', 'two']) await server.publish('news', { title });
    const wake = `navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready).then(({ active }) => active.postMessage(''))`;
    const titles = `navigator.serviceWorker.ready.then((worker) => worker.getNotifications()).then((all) => all.map(({ title }) => title).sort().join(' '))`;
    const cursor = `caches.open('tidewire').then((cache) => cache.match('/cursor')).then((answer) => answer?.text())`;
    for (const [title, expected] of [['three', 'one three two'], ['zebra', 'one three two zebra']] as const) {
      const id = await server.publish('news', { title });
      await page.evaluate(wake);
      await until(() => `the cursor after ${title}: ${said}`, async () => (await page.evaluate(cursor)) === id);
      expect(await page.evaluate(titles)).toBe(expected);
    }
  });
});
