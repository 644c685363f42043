// The application of the build log: logs people in, runs builds, and says line by line how they go. A build is
// whatever `BUILD` says; here it counts the lines of this repository's sources, file by file.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const BUILD = `set -e; for file in $(git ls-files 'crates/core/*.rs' 2>/dev/null || ls README.md); do
  wc -l "$file"; sleep 0.03; done; echo "all counted"`;
const SESSION_SECONDS = 3600;
const BUILDS_AT_ONCE = 4;
/** How often a line is published again that could not be, and how long each waits: Tidewire may be starting anew. */
const ATTEMPTS = 100;
const ATTEMPT_PAUSE_MS = 200;

export function routes({ token, userOf, publish }) {
  const running = new Set();
  routes.stop = () => running.forEach((child) => child.kill());

  const mustBeSomebody = (cookies) => {
    const user = userOf(cookies.session);
    if (!user) throw Object.assign(new Error('log in first'), { status: 401 });
    return user;
  };

  /** Published once, however often it takes: each attempt has the same key. */
  async function tell(channel, event, data) {
    const headers = { 'Idempotency-Key': randomUUID(), 'Tidewire-Event': event };
    for (let attempt = 1; ; attempt++) {
      try {
        return await publish(channel, data, headers);
      } catch (error) {
        if (attempt === ATTEMPTS) throw error;
        await new Promise((resolve) => setTimeout(resolve, ATTEMPT_PAUSE_MS));
      }
    }
  }

  async function run(build, user) {
    const child = spawn('sh', ['-c', BUILD], { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = new Promise((resolve) => child.once('close', resolve));
    running.add(child);
    let lines = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      await tell(`build:${build}`, 'line', { number: ++lines, line });
    }
    const status = await ended;
    running.delete(child);
    await tell(`build:${build}`, 'finished', { status, lines });
    await tell(`user:${user}:notifications`, 'notification', { build, text: `Build ${build}: ${status === 0 ? 'done' : 'failed'}` });
  }

  return {
    'POST /login': ({ body }) => {
      const user = String(body.name ?? '');
      if (!/^[a-z]{1,20}$/.test(user)) throw Object.assign(new Error('a name is 1 to 20 letters, a to z'), { status: 400 });
      const cookie = `session=${token(user, SESSION_SECONDS)}; HttpOnly; SameSite=Strict; Path=/; Max-Age=${SESSION_SECONDS}`;
      return { body: { user }, headers: { 'Set-Cookie': cookie } };
    },
    'GET /me': ({ cookies }) => ({ body: { user: userOf(cookies.session) ?? null } }),
    'POST /builds': ({ cookies }) => {
      const user = mustBeSomebody(cookies);
      if (running.size >= BUILDS_AT_ONCE) throw Object.assign(new Error('too many builds are running'), { status: 429 });
      const build = randomUUID().slice(0, 8);
      run(build, user).catch((error) => console.error(`build ${build}: ${error.message}`));
      return { status: 201, body: { build } };
    },
  };
}
