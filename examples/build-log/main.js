// The page of the build log. One native EventSource for both channels: the browser reconnects and resumes by itself,
// and what it shows is the log, whenever it came.
const element = (id) => document.getElementById(id);
const { tidewire } = await (await fetch('/settings.json')).json();
let stream;

async function ask(path, body) {
  const options = body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.message);
  return said;
}

function show(state) {
  const words = { open: 'live', waiting: 'reconnecting…', closed: 'not connected' };
  element('state').dataset.state = state;
  element('state').textContent = words[state];
}

function addLine(text, className) {
  const log = element('log');
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const line = Object.assign(document.createElement('div'), { textContent: text, className: className ?? '' });
  log.append(line);
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

/** Follows a build from its first line, and what concerns the user. */
function follow(user, build) {
  stream?.close();
  element('log').replaceChildren();
  element('notifications').replaceChildren();
  element('build').textContent = build ? `Build ${build}. This page's address shows it to others.` : 'No build yet.';
  const query = new URLSearchParams({ since: 'earliest' });
  if (build) query.append('channel', `build:${build}`);
  query.append('channel', `user:${user}:notifications`);
  // The cookie of the login says who asks; on another origin it is sent only with this.
  stream = new EventSource(`${tidewire}/v1/events?${query}`, { withCredentials: true });
  show('waiting');
  stream.onopen = () => show('open');
  stream.onerror = () => show(stream.readyState === EventSource.CLOSED ? 'closed' : 'waiting');
  // Over several channels, what is in `data` is the event with its channel, and the application's data within.
  const on = (name, act) => stream.addEventListener(name, (event) => act(JSON.parse(event.data).data));
  on('line', ({ line }) => addLine(line));
  on('finished', ({ status, lines }) => addLine(status === 0 ? `✓ ${lines} lines` : `✗ ended with ${status}`));
  on('notification', ({ text }) => {
    element('notifications').prepend(Object.assign(document.createElement('li'), { textContent: text }));
  });
  stream.addEventListener('tidewire.gap', () => addLine('… older lines are gone', 'gap'));
}

async function begin() {
  const { user } = await ask('/me');
  element('login').hidden = Boolean(user);
  element('main').hidden = !user;
  if (!user) return;
  element('who').textContent = user;
  follow(user, location.hash.slice(1));
  window.onhashchange = () => follow(user, location.hash.slice(1));
}

element('login').onsubmit = async (event) => {
  event.preventDefault();
  await ask('/login', { name: new FormData(event.target).get('name') });
  await begin();
};
element('start').onclick = async () => {
  try {
    location.hash = (await ask('/builds', {})).build;
  } catch (error) {
    addLine(`✗ ${error.message}`);
  }
};
await begin();
