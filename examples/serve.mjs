// Serves an example: its page, the application behind it (`app.mjs`), and a Tidewire of its own. Must not know any
// example, nor do what a real application would leave to its web framework.
//   node examples/serve.mjs NAME [PORT]
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { mkdirSync } from 'node:fs';
import { extname, join, normalize, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const ROOT = join(HERE, '..');
/** What pages get; the application's own files (`.mjs`, `.toml`) are none of theirs. */
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css' };
const BODY_BYTES_MAX = 64 << 10;

/** A JWT with HS256 (RFC 7515), as any library makes it. */
function sign(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** Starts Tidewire with the example's configuration. Its port stays when it is started again. */
class Tidewire {
  constructor(folder, data, environment) {
    Object.assign(this, { folder, data, environment, port: 0 });
  }

  async start() {
    const listen = ['serve', '--listen', `127.0.0.1:${this.port}`, '--no-demo', '--data', this.data];
    const binary = process.env.TIDEWIRE_BIN ?? join(ROOT, 'target/release/tidewire');
    const environment = { TIDEWIRE_LOG__LEVEL: 'warn', ...process.env, ...this.environment };
    this.child = spawn(binary, [...listen, '--config', join(this.folder, 'tidewire.toml')], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: environment,
    });
    let line = '';
    for await (const piece of this.child.stdout) {
      line += piece;
      if (line.includes('\n')) break;
    }
    this.url = /http:\S+/.exec(line)?.[0];
    if (!this.url) throw new Error(`Tidewire did not start: ${line}`);
    this.port = Number(new URL(this.url).port);
  }

  async end(signal = 'SIGTERM') {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill(signal);
    await once(this.child, 'exit');
  }
}

/** What an example's application gets to work with. */
function tools(tidewire, secrets) {
  return {
    tidewire,
    adminKey: secrets.admin,
    /** A token for a user, good for some seconds. Without rights, it is the configuration that says who may what. */
    token: (user, seconds, rights) => {
      const now = Math.floor(Date.now() / 1000);
      const claims = { sub: user, iat: now, exp: now + seconds, ...(rights && { tidewire: rights }) };
      return sign(claims, secrets.token);
    },
    /** Whose token it is, if it is good. */
    userOf: (token) => {
      const [head, claims, signature] = (token ?? '').split('.');
      const right = createHmac('sha256', secrets.token).update(`${head}.${claims}`).digest('base64url');
      const given = Buffer.from(signature ?? '');
      if (given.length !== right.length || !timingSafeEqual(given, Buffer.from(right))) return undefined;
      const { sub, exp } = JSON.parse(Buffer.from(claims, 'base64url'));
      return exp > Date.now() / 1000 ? sub : undefined;
    },
    /** Publishes as the application. Told again with the same key, it is one event all the same. */
    publish: async (channel, data, headers = {}) => {
      const answer = await fetch(`${tidewire.url}/v1/channels/${channel}/events`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${secrets.admin}`, ...headers },
        body: JSON.stringify(data),
      });
      if (!answer.ok) throw new Error(`publishing to ${channel}: ${answer.status} ${await answer.text()}`);
      return answer.json();
    },
  };
}

async function bodyOf(request) {
  let text = '';
  for await (const piece of request) {
    text += piece;
    if (text.length > BODY_BYTES_MAX) throw Object.assign(new Error('too large'), { status: 413 });
  }
  return text ? JSON.parse(text) : {};
}

/** A file of the page, of the client (`/client/`), or of a package that the example uses (`/modules/`). */
async function fileOf(folder, path) {
  const roots = { '/client/': join(ROOT, 'clients/ts/dist'), '/modules/': join(folder, 'node_modules') };
  const prefix = Object.keys(roots).find((start) => path.startsWith(start)) ?? '/';
  const root = roots[prefix] ?? folder;
  const file = normalize(join(root, path.slice(prefix.length) || 'index.html'));
  const type = TYPES[extname(file)];
  if (!type || !file.startsWith(root + sep)) return undefined;
  const content = await readFile(file).catch(() => undefined);
  return content && { content, type };
}

/**
 * @param {string} name the example's folder
 * @returns its `url`, its `tidewire` (to be ended and started again), and `stop()`
 */
export async function serve(name, { port = 0, data } = {}) {
  const folder = join(HERE, name);
  const secrets = { token: randomBytes(32).toString('hex'), admin: randomBytes(32).toString('hex') };
  const server = createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  mkdirSync(data ?? join(folder, 'data'), { recursive: true });
  const tidewire = new Tidewire(folder, data ?? join(folder, 'data'), {
    TOKEN_SECRET: secrets.token,
    TIDEWIRE_ADMIN_KEY: secrets.admin,
    TIDEWIRE_ORIGINS: JSON.stringify([url]),
  });
  await tidewire.start();
  const { routes } = await import(join(folder, 'app.mjs'));
  const application = routes(tools(tidewire, secrets));
  const settings = JSON.stringify({ tidewire: tidewire.url });
  server.on('request', async (request, response) => {
    const { pathname } = new URL(request.url, url);
    const route = application[`${request.method} ${pathname}`];
    try {
      if (pathname === '/settings.json') {
        return response.setHeader('Content-Type', 'application/json').end(settings);
      }
      if (route) {
        // Forms and scripts of another page carry cookies too.
        if (request.method !== 'GET' && request.headers.origin !== url) {
          throw Object.assign(new Error('only pages of this application may do that'), { status: 403 });
        }
        const pairs = (request.headers.cookie ?? '').split('; ').map((pair) => pair.split('='));
        const cookies = Object.fromEntries(pairs);
        const answer = await route({ body: await bodyOf(request), cookies, headers: request.headers });
        response.writeHead(answer.status ?? 200, { 'Content-Type': 'application/json', ...answer.headers });
        return response.end(JSON.stringify(answer.body ?? {}));
      }
      const file = request.method === 'GET' && (await fileOf(folder, pathname));
      if (!file) return response.writeHead(404).end('there is nothing here');
      response.writeHead(200, { 'Content-Type': file.type, 'Cache-Control': 'no-cache' }).end(file.content);
    } catch (error) {
      response.writeHead(error.status ?? 503, { 'Content-Type': 'application/json' });
      response.end(JSON.stringify({ message: String(error.message) }));
    }
  });
  return {
    url,
    tidewire,
    async stop() {
      await routes.stop?.();
      server.closeAllConnections();
      server.close();
      await tidewire.end();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name, port = '3000'] = process.argv.slice(2);
  const example = await serve(name, { port: Number(port) }).catch((error) => {
    const isTaken = error.code === 'EADDRINUSE';
    console.error(isTaken ? `port ${port} is taken; try: ./examples/run ${name} ${Number(port) + 1}` : error.message);
    process.exit(1);
  });
  console.log(`${name} is at ${example.url}`);
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, async () => {
      await example.stop();
      process.exit(0);
    });
  }
}
