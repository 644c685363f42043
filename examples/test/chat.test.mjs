// The chat in a real browser with three users: everybody has the same messages in the same order, whoever was cut off,
// asleep or reloaded, and whatever was killed. Must not know the page's code.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { begin, open } from './example.mjs';

// A browser that fell back to requests may go without a word, and is seen for this long then.
process.env.TIDEWIRE_LIMITS__PRESENCE_MS = '5000';

let example;
let ann;
let bob;
let cat;

before(async () => {
  example = await begin('chat');
  [ann, bob, cat] = [await open(example), await open(example), await open(example, { width: 360, height: 740 })];
});

after(() => example?.stop());

const isLive = (user) => user.page.waitForSelector('#state[data-state=open]');
const messages = ({ page }) => page.$$eval('[data-message]', (items) => items.map((item) => item.dataset.message));
const members = (user) => user.page.$$eval('#members li', (items) => items.map((item) => item.textContent));
const has = (user, text) => user.page.waitForSelector(`[data-message="${text}"]`);
const sees = (user, names) => user.page.waitForFunction((wanted) =>
  JSON.stringify([...document.querySelectorAll('#members li')].map((item) => item.textContent)) === wanted, JSON.stringify(names));

async function logIn(user, name) {
  await user.page.fill('input[name=name]', name);
  await user.page.click('#login button');
  await isLive(user);
}

async function say(user, text) {
  await user.page.fill('#write input', text);
  await user.page.click('#write button');
}

/** What this user cannot reach for now: Tidewire, and the application too. */
async function cutOff(user) {
  await user.context.setOffline(true);
  user.relay.cut();
  await user.page.waitForSelector('#state:not([data-state=open])');
}

async function bringBack(user) {
  user.relay.mend();
  await user.context.setOffline(false);
  await isLive(user);
}

test('who is here, who types, and who has read what', async () => {
  await logIn(ann, 'ann');
  await logIn(bob, 'bob');
  await Promise.all([ann, bob].map((user) => sees(user, ['ann', 'bob'])));
  await ann.page.type('#write input', 'hel');
  await bob.page.waitForFunction(() => document.querySelector('#typing').textContent === 'ann is typing…');
  await say(ann, 'hello');
  await Promise.all([has(ann, 'hello'), has(bob, 'hello')]);
  await bob.page.waitForFunction(() => document.querySelector('#typing').textContent === '');
  await ann.page.waitForFunction(() => document.querySelector('[data-message=hello] small').textContent === 'read by bob');
});

test('who is cut off misses nothing and says everything, once', async () => {
  await cutOff(ann);
  for (const number of [1, 2, 3]) await say(bob, `bob ${number}`);
  for (const number of [1, 2]) await say(ann, `ann ${number}`);
  await ann.page.waitForSelector('li.pending');
  await has(bob, 'bob 3');
  await sees(bob, ['bob']);
  await bringBack(ann);
  await Promise.all([has(bob, 'ann 2'), has(ann, 'ann 2'), has(ann, 'bob 3')]);
  await Promise.all([ann, bob].map((user) => sees(user, ['ann', 'bob'])));
  assert.deepEqual(await messages(ann), ['hello', 'bob 1', 'bob 2', 'bob 3', 'ann 1', 'ann 2']);
  assert.deepEqual(await messages(bob), await messages(ann));
  assert.equal(await ann.page.locator('li.pending').count(), 0);
});

test('the server is killed and started anew while people talk', async () => {
  await example.tidewire.end('SIGKILL');
  await say(ann, 'into the void');
  await say(bob, 'me too');
  await example.tidewire.start();
  await Promise.all([ann, bob].flatMap((user) => [has(user, 'into the void'), has(user, 'me too')]));
  await Promise.all([ann, bob].map((user) => sees(user, ['ann', 'bob'])));
  assert.deepEqual(await messages(bob), await messages(ann));
  assert.equal((await messages(ann)).length, 8);
});

test('the laptop sleeps, and knows all of it when it wakes', async () => {
  const session = await bob.context.newCDPSession(bob.page);
  await session.send('Page.setWebLifecycleState', { state: 'frozen' });
  bob.relay.cut();
  for (const number of [1, 2, 3, 4, 5]) await say(ann, `while away ${number}`);
  await has(ann, 'while away 5');
  await sees(ann, ['ann']);
  bob.relay.mend();
  await session.send('Page.setWebLifecycleState', { state: 'active' });
  await has(bob, 'while away 5');
  await Promise.all([ann, bob].map((user) => sees(user, ['ann', 'bob'])));
  assert.deepEqual(await messages(bob), await messages(ann));
});

test('who comes late, or again, sees the same; who goes is gone', async () => {
  await logIn(cat, 'cat');
  await has(cat, 'while away 5');
  assert.deepEqual(await messages(cat), await messages(ann));
  await bob.page.reload();
  await isLive(bob);
  await has(bob, 'while away 5');
  assert.deepEqual(await messages(bob), await messages(ann));
  await sees(ann, ['ann', 'bob', 'cat']);
  await ann.shoot('chat');
  await cat.shoot('chat-narrow');
  assert.ok(await cat.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing is cut off at 360 px');
  await bob.page.close();
  await sees(ann, ['ann', 'cat']);
  assert.deepEqual(await members(cat), ['ann', 'cat']);
});

test('nobody writes in the name of another', async () => {
  const statuses = await cat.page.evaluate(async () => {
    const { tidewire } = await (await fetch('/settings.json')).json();
    const { token } = await (await fetch('/token')).json();
    const post = async (path, body, headers) => (await fetch(`${tidewire}${path}`, { method: 'POST', body, headers })).status;
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    return [
      await post('/v1/channels/chat:lobby/events', '{"from":"ann","text":"x","id":"1"}', headers),
      await post('/v1/channels/chat:lobby/presence?instance=a&member=ann', '{}', headers),
    ];
  });
  assert.deepEqual(statuses, [403, 403]);
});

test('nothing was complained of but the cuts', () => {
  const all = [ann, bob, cat].flatMap((user) => user.complaints);
  assert.deepEqual(all.filter((text) => !/ERR_|WebSocket connection|Failed to load/.test(text)), []);
});
