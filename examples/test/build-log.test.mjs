// The build log in a real browser: two users, one of them cut off for a while, Tidewire killed in between. Must not
// know the page's code; it sees what its users see.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { open, begin } from './example.mjs';

let example;
let ann;
let bob;

before(async () => {
  example = await begin('build-log');
  [ann, bob] = [await open(example), await open(example)];
});

after(() => example?.stop());

async function logIn(page, name) {
  await page.fill('input[name=name]', name);
  await page.click('#login button');
  await page.waitForSelector('#state[data-state=open]');
}

const lines = (page) => page.locator('#log div').allTextContents();
const showsAll = (page) => page.waitForFunction(() => document.querySelector('#log').lastChild?.textContent.startsWith('✓'));
const hasLines = (page, least) =>
  page.waitForFunction((count) => document.querySelectorAll('#log div').length >= count, least);

test('a build is seen whole and in order, whoever was away and whatever was killed', async () => {
  await logIn(ann.page, 'ann');
  await logIn(bob.page, 'bob');
  await ann.page.click('#start');
  await hasLines(ann.page, 3);
  // Somebody else comes in the middle, and reads it from the beginning.
  await bob.page.goto(ann.page.url());
  await bob.page.reload();
  await hasLines(bob.page, 5);
  bob.relay.cut();
  await bob.page.waitForSelector('#state[data-state=waiting]');
  await example.tidewire.end('SIGKILL');
  await ann.page.waitForSelector('#state[data-state=waiting]');
  await example.tidewire.start();
  await ann.page.waitForSelector('#state[data-state=open]');
  bob.relay.mend();
  await Promise.all([showsAll(ann.page), showsAll(bob.page)]);
  const [seen, seenByBob] = [await lines(ann.page), await lines(bob.page)];
  assert.deepEqual(seen, seenByBob);
  const count = Number(/^✓ (\d+) lines/.exec(seen.at(-1))[1]);
  assert.equal(seen.length, count + 1);
  assert.equal(seen.at(-2), 'all counted');
  assert.equal(new Set(seen).size, seen.length);
});

test('a notification is for the one whom it concerns, also on the next visit', async () => {
  await ann.page.waitForSelector('#notifications li');
  assert.match(await ann.page.textContent('#notifications'), /^Build \w+: done$/);
  assert.equal(await bob.page.textContent('#notifications'), '');
  await ann.page.reload();
  await ann.page.waitForSelector('#notifications li');
  await ann.shoot('build-log');
});

test('nobody reads what is not theirs', async () => {
  const status = (page, channel) => page.evaluate(async (name) => {
    const { tidewire } = await (await fetch('/settings.json')).json();
    return (await fetch(`${tidewire}/v1/channels/${name}/events`, { credentials: 'include' })).status;
  }, channel);
  assert.equal(await status(ann.page, 'user:ann:notifications'), 200);
  assert.equal(await status(bob.page, 'user:ann:notifications'), 403);
  const stranger = await open(example);
  assert.equal(await status(stranger.page, 'user:ann:notifications'), 401);
});

test('nothing was complained of but the cuts', () => {
  // Chromium says of each attempt that failed that it did.
  const others = [...ann.complaints, ...bob.complaints].filter((text) => !/ERR_|Failed to load resource/.test(text));
  assert.deepEqual(others, []);
});
