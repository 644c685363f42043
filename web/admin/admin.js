// Owns: who is let in, the stream of statistics and what the header says of it, and which part is seen.
// Must not know: how a part looks.

import { ask, key, Refused } from './api.js';
import { createBackoff, sleep } from './backoff.js';
import { createChannels } from './channels.js';
import { createConsole } from './console.js';
import { find, say, setText } from './dom.js';
import { createConfirm, createDrain } from './drain.js';
import { readEvents } from './event-stream.js';
import { count, uptime } from './format.js';
import { createOverview } from './overview.js';
import { createUsers } from './users.js';

const PARTS = ['overview', 'channels', 'users', 'console'];
// A stream that says nothing for so long is broken, whatever the network thinks: there is an event each second.
const SILENCE_MS = 10_000;

const state = find('.session [data-state]');
const notice = find('[data-notice]');
const confirm = createConfirm();
const overview = createOverview();
const channels = createChannels({ confirm, onRefused });
const users = createUsers({ confirm, onRefused });
const console_part = createConsole({ onRefused });
createDrain({ confirm });
let watching = null;
let is_draining = false;

function show(name, text = name) {
  state.dataset.state = name;
  setText(state, text);
}

function tell(text) {
  notice.hidden = text === '';
  setText(notice, text);
}

/** True if the key is not (any more) good: then the page is closed again. */
function onRefused(error) {
  if (!(error instanceof Refused) || !error.is_about_key) return false;
  logOut(`This is not the server's admin key. ${error.message}`);
  return true;
}

function logOut(why = '') {
  key.forget();
  watching?.abort();
  watching = null;
  console_part.stop();
  tell('');
  for (const [selector, is_hidden] of [['[data-login]', false], ['[data-inside]', true], ['[data-session]', true]]) {
    find(selector).hidden = is_hidden;
  }
  document.body.dataset.view = 'login';
  setText(find('[data-server-line]'), '\u00a0');
  say(find('[data-login-result]'), why, why ? 'bad' : '');
  find('#key').focus();
}

async function enter(typed) {
  const button = find('[data-login-form] button');
  button.disabled = true;
  try {
    const { on_admin_port } = await ask('/v1/admin', { token: typed });
    key.set(typed);
    find('#key').value = '';
    open(on_admin_port);
  } catch (error) {
    if (onRefused(error)) return;
    const is_unsendable = error instanceof TypeError && !/^[\x21-\x7e \u00a0-\u00ff]+$/.test(typed);
    const why = is_unsendable ? 'That cannot be an admin key: it has characters that no header takes.' : `The server does not answer: ${error.message}`;
    say(find('[data-login-result]'), error instanceof Refused ? error.message : why, 'bad');
  } finally {
    button.disabled = false;
    find('[data-login]').hidden = document.body.dataset.view === 'inside';
  }
}

function open(on_admin_port) {
  for (const [selector, is_hidden] of [['[data-login]', true], ['[data-inside]', false], ['[data-session]', false]]) {
    find(selector).hidden = is_hidden;
  }
  document.body.dataset.view = 'inside';
  if (on_admin_port) {
    find('#token').disabled = true;
    setText(find('[data-token-note]'), 'This port takes the admin key only. A WebSocket gets a ticket for this channel only: the key is in no URL.');
  }
  watching?.abort();
  watching = new AbortController();
  watch(watching.signal);
  choosePart();
}

/** Reads the statistics until the page is closed, and comes back where it was whenever the stream ends. */
async function watch(signal) {
  const backoff = createBackoff();
  let last_id = '';
  show('connecting');
  while (!signal.aborted) {
    const attempt = new AbortController();
    const give_up = () => attempt.abort();
    signal.addEventListener('abort', give_up, { once: true });
    let silence = setTimeout(give_up, SILENCE_MS);
    let at_least_ms = 0;
    try {
      await readEvents(`/v1/admin/statistics${last_id ? '' : '?since=earliest'}`, {
        last_id,
        signal: attempt.signal,
        onEvent({ name, data, id }) {
          clearTimeout(silence);
          silence = setTimeout(give_up, SILENCE_MS);
          last_id = id || last_id;
          if (name === 'statistics') {
            backoff.reset();
            take(JSON.parse(data));
          } else if (name === 'tidewire.reconnect') at_least_ms = JSON.parse(data).after_ms[0];
        },
      });
    } catch (error) {
      if (signal.aborted || onRefused(error)) return;
      // A cursor that the server cannot read is of no use.
      if (error instanceof Refused && error.status === 400) last_id = '';
    } finally {
      clearTimeout(silence);
      signal.removeEventListener('abort', give_up);
    }
    if (signal.aborted) return;
    show('reconnecting');
    tell(is_draining ? 'The server has drained and is gone. This page comes back when a server does.' : 'The server does not answer. Figures are the last ones; this page comes back by itself.');
    await sleep(backoff.next(at_least_ms), signal).catch(() => {});
  }
}

function take(sample) {
  const { server } = sample;
  is_draining = server.draining;
  overview.add(sample);
  overview.draw();
  setText(find('[data-server-line]'), `${location.host}, version ${server.version}, up ${uptime(server.uptime_seconds)}`);
  find('[data-drain-open]').disabled = is_draining;
  if (is_draining) {
    show('draining');
    tell(`Draining: ${count(Math.max(0, server.connections - 1))} other connections left.`);
  } else {
    show('live');
    tell('');
  }
}

function choosePart() {
  const named = location.hash.slice(1);
  const part = PARTS.includes(named) ? named : PARTS[0];
  for (const node of document.querySelectorAll('[data-part]')) node.hidden = node.dataset.part !== part;
  for (const link of document.querySelectorAll('.tabs a')) {
    if (link.hash === `#${part}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (document.body.dataset.view !== 'inside') return;
  if (part === 'channels') channels.load();
  if (part === 'users') users.load();
}

find('[data-login-form]').addEventListener('submit', (event) => {
  event.preventDefault();
  enter(find('#key').value.trim());
});
find('[data-logout]').addEventListener('click', () => logOut());
addEventListener('hashchange', choosePart);
addEventListener('pageshow', (event) => event.persisted && location.reload());

choosePart();
if (key.get()) enter(key.get());
else logOut();
