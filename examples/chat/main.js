// The page of the chat. What is in the room is what Tidewire delivers, own messages too: there is one order, and it is
// the same for everybody.
import { Tidewire } from '/client/index.js';
import { enter, watchMembers } from '/client/presence.js';
import { Outbox } from './outbox.js';

const TYPING_SAID_MS = 2_000;
const TYPING_SHOWN_MS = 4_000;
const element = (id) => document.getElementById(id);
const add = (parent, tag, text, className = '') => {
  const made = Object.assign(document.createElement(tag), { textContent: text, className });
  parent.append(made);
  return made;
};

async function ask(path, body) {
  const options = body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const said = await answer.json();
  // What is wrong with the message itself stays wrong; all else may pass.
  if (!answer.ok) throw Object.assign(new Error(said.message), { isFinal: answer.status === 400 });
  return said;
}

class Room {
  #ids = new Map();
  #readUpTo = new Map();
  #pending = new Map();
  #typing = new Map();

  constructor(user) {
    this.user = user;
    this.list = element('messages');
  }

  /** A message that is on its way. */
  showPending({ id, text }) {
    const item = add(this.list, 'li', '', 'own pending');
    add(item, 'span', text);
    this.#pending.set(id, item);
    this.list.scrollTop = this.list.scrollHeight;
  }

  showMessage({ id: eventId, data: { id, from, text } }) {
    this.#pending.get(id)?.remove();
    this.#pending.delete(id);
    const isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 80;
    const item = document.createElement('li');
    item.className = from === this.user ? 'own' : '';
    item.dataset.message = text;
    if (from !== this.user) add(item, 'b', from);
    add(item, 'span', text);
    add(item, 'small', '');
    // What is on its way has no place yet, and stays at the end.
    this.list.insertBefore(item, this.#pending.values().next().value ?? null);
    this.#ids.set(eventId, { item, number: this.#ids.size, from });
    this.#typing.delete(from);
    this.#showTyping();
    this.#showReceipts();
    // Whoever reads what was said before is left alone.
    if (isAtEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  showGap() {
    add(this.list, 'li', 'Older messages are gone', 'gap');
  }

  noteRead({ user, upTo }) {
    this.#readUpTo.set(user, upTo);
    this.#showReceipts();
  }

  #showReceipts() {
    const numbers = [...this.#readUpTo].map(([user, id]) => [user, this.#ids.get(id)?.number ?? -1]);
    for (const { item, number, from } of this.#ids.values()) {
      const readers = numbers.filter(([user, upTo]) => user !== from && upTo >= number).map(([user]) => user).sort();
      item.querySelector('small').textContent = readers.length ? `read by ${readers.join(', ')}` : '';
    }
  }

  noteTyping({ user }) {
    if (user === this.user) return;
    clearTimeout(this.#typing.get(user));
    const forget = () => this.#typing.delete(user) && this.#showTyping();
    this.#typing.set(user, setTimeout(forget, TYPING_SHOWN_MS));
    this.#showTyping();
  }

  #showTyping() {
    const users = [...this.#typing.keys()].sort();
    element('typing').textContent = users.length ? `${users.join(', ')} ${users.length > 1 ? 'are' : 'is'} typing…` : '';
  }
}

function showState(state) {
  const words = { open: 'live', connecting: 'connecting…', waiting: 'reconnecting…', idle: '', closed: 'closed', failed: 'refused' };
  element('state').dataset.state = state;
  element('state').textContent = words[state];
}

function showMembers(members) {
  element('members').replaceChildren();
  for (const name of [...members.keys()].sort()) add(element('members'), 'li', name);
}

/** Tells how far was read, once for many messages, and only what somebody saw. */
function receipts() {
  let latest;
  let told;
  const tell = () => {
    if (document.visibilityState !== 'visible' || latest === told) return;
    const upTo = (told = latest);
    ask('/receipts', { upTo }).catch(() => upTo === told && (told = undefined));
  };
  setInterval(tell, 500);
  return (id) => (latest = id);
}

function begin(user, room, tidewire) {
  element('who').textContent = user;
  const view = new Room(user);
  const client = new Tidewire(tidewire, {
    token: async () => (await ask('/token')).token,
    onState: showState,
  });
  const read = receipts();
  client.channel(`chat:${room}`).subscribe({
    since: 'earliest',
    onEvent: (event) => {
      view.showMessage(event);
      read(event.id);
    },
    onGap: () => view.showGap(),
  });
  client.channel(`receipts:${room}`).subscribe({
    snapshot: true,
    onSnapshot: ({ state }) => state.forEach(({ data }) => view.noteRead(data)),
    onEvent: ({ data }) => view.noteRead(data),
  });
  client.channel(`typing:${room}`).subscribe({ onEvent: ({ data }) => view.noteTyping(data) });
  watchMembers(client, `chat:${room}`, showMembers);
  enter(client, `chat:${room}`, {});

  const outbox = new Outbox(`outbox:${user}`, async (message) => {
    try {
      await ask('/messages', message);
    } catch (error) {
      if (!error.isFinal) throw error;
    }
  });
  outbox.waiting.forEach((message) => view.showPending(message));
  element('write').onsubmit = (event) => {
    event.preventDefault();
    const input = event.target.elements.text;
    const message = { id: crypto.randomUUID(), text: input.value };
    if (!outbox.add(message)) return;
    view.showPending(message);
    input.value = '';
  };
  let typedMs = 0;
  element('write').oninput = () => {
    if (Date.now() - typedMs < TYPING_SAID_MS) return;
    typedMs = Date.now();
    // Worth nothing a moment later: it is not tried again.
    ask('/typing', {}).catch(() => {});
  };
}

async function start() {
  const { user, room } = await ask('/me');
  element('login').hidden = Boolean(user);
  element('main').hidden = !user;
  if (user) begin(user, room, (await ask('/settings.json')).tidewire);
}

element('login').onsubmit = async (event) => {
  event.preventDefault();
  await ask('/login', { name: new FormData(event.target).get('name') });
  await start();
};
await start();
