// The dashboard in a real browser: what two users see is the state of the market, also after one was cut off and
// Tidewire was started anew. Must not know the page's code.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { begin, open } from './example.mjs';

let example;
let ann;
let bob;

before(async () => {
  example = await begin('dashboard');
  [ann, bob] = [await open(example), await open(example)];
});

after(() => example?.stop());

const isLive = (user) => user.page.waitForSelector('#state[data-state=open]');
const ticksAtLeast = (page, least) =>
  page.waitForFunction((count) => Number(document.querySelector('#ticks').textContent) >= count, least);

/** What the page shows is what the market is, once that stands still. */
async function showsTheMarket(page) {
  await page.waitForFunction(async () => {
    const { tidewire } = await (await fetch('/settings.json')).json();
    const { state } = await (await fetch(`${tidewire}/v1/channels/market`)).json();
    const shown = new Map([...document.querySelectorAll('#symbols button')]
      .map((button) => [button.dataset.symbol, button.querySelector('span').textContent]));
    return state.length === 200 && state.every(({ key, data }) => shown.get(key) === data.price.toFixed(2));
  }, undefined, { polling: 200 });
}

const pause = async (page, paused) => {
  await page.click('#pause');
  await page.waitForSelector(`#pause[aria-pressed=${paused}]`);
};

test('thousands of ticks a second are painted once a frame', async () => {
  await Promise.all([isLive(ann), isLive(bob)]);
  await Promise.all([ticksAtLeast(ann.page, 1000), ticksAtLeast(bob.page, 1000)]);
  const [frames, ticks] = await Promise.all(['#frames', '#ticks'].map((name) => ann.page.textContent(name)));
  assert.ok(Number(frames) > 0 && Number(frames) <= 70, `${frames} frames for ${ticks} ticks`);
  await ann.shoot('dashboard');
});

test('whoever was away has the state again, and goes on from there', async () => {
  bob.relay.cut();
  await bob.page.waitForSelector('#state:not([data-state=open])');
  await example.tidewire.end('SIGKILL');
  await example.tidewire.start();
  bob.relay.mend();
  await Promise.all([isLive(ann), isLive(bob)]);
  await Promise.all([ticksAtLeast(ann.page, 1000), ticksAtLeast(bob.page, 1000)]);
  await pause(ann.page, true);
  await Promise.all([showsTheMarket(ann.page), showsTheMarket(bob.page)]);
  await pause(ann.page, false);
  await ticksAtLeast(bob.page, 1000);
});

test('nothing was complained of but the cuts', () => {
  const others = [...ann.complaints, ...bob.complaints].filter((text) => !/ERR_|WebSocket connection|Failed to load/.test(text));
  assert.deepEqual(others, []);
});
