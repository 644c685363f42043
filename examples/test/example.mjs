// Starts an example, and opens its page for one user after the other, each through a relay that can be cut. Must not
// know any example.
import { mkdir, mkdtemp } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { serve } from '../serve.mjs';

const { chromium } = createRequire(new URL('../../web/test/', import.meta.url))('playwright-core');
const LAUNCH = {
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};

/** A way to a port that can be cut: nothing gets through, and what was open breaks. */
class Relay {
  #sockets = new Set();
  #isCut = false;

  constructor(portOf) {
    this.server = createServer((client) => {
      if (this.#isCut) return client.destroy();
      const upstream = connect(portOf(), '127.0.0.1');
      for (const [one, other] of [[client, upstream], [upstream, client]]) {
        this.#sockets.add(one);
        one.on('error', () => other.destroy());
        one.on('close', () => this.#sockets.delete(one) && other.destroy());
        one.pipe(other);
      }
    });
  }

  async listen() {
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  cut() {
    this.#isCut = true;
    this.#sockets.forEach((socket) => socket.destroy());
  }

  mend() {
    this.#isCut = false;
  }

  close() {
    this.cut();
    this.server.close();
  }
}

/** A running example with a browser. */
export async function begin(name) {
  const data = await mkdtemp(join(tmpdir(), `${name}-`));
  const example = await serve(name, { data });
  const browser = await chromium.launch(LAUNCH);
  const relays = [];
  return {
    url: example.url,
    tidewire: example.tidewire,
    browser,
    relays,
    async stop() {
      await browser.close();
      relays.forEach((relay) => relay.close());
      await example.stop();
    },
  };
}

/** The page of one more user, who shares nothing with the others, and a relay of their own to Tidewire. */
export async function open(example, viewport = { width: 1200, height: 800 }) {
  const relay = new Relay(() => example.tidewire.port);
  await relay.listen();
  example.relays.push(relay);
  const context = await example.browser.newContext({ viewport });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const complaints = [];
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(error.stack));
  await context.route('**/settings.json', (route) => route.fulfill({ json: { tidewire: relay.url } }));
  await page.goto(example.url);
  const shoot = async (name) => {
    const folder = process.env.SCREENSHOT_DIR;
    if (!folder) return;
    await mkdir(folder, { recursive: true });
    await page.screenshot({ path: join(folder, `${name}.png`) });
  };
  return { page, context, relay, complaints, shoot };
}
