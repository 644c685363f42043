// Owns: the demo page's promises, checked in a real browser against a real server.
// Must not know: the page's modules. It sees what a visitor sees, through data- attributes.
//
//   TIDEWIRE_URL=http://127.0.0.1:8080 [SCREENSHOT_DIR=DIR] node --test
//
// Waits are for conditions; the times below only bound them.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const TRANSPORTS = ['short-polling', 'long-polling', 'sse', 'websocket'];
const WIDE = { width: 1440, height: 900 };
const NARROW = { width: 360, height: 740 };
const URL_UNDER_TEST = process.env.TIDEWIRE_URL;
const LAUNCH = {
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};

let browser;
let page;
let page_response;
const complaints = [];

before(async () => {
  assert.ok(URL_UNDER_TEST, 'set TIDEWIRE_URL to the base URL of a running server');
  browser = await chromium.launch(LAUNCH);
  page = await browser.newPage({ viewport: WIDE });
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(error.stack));
  await page.exposeFunction('complain', (text) => complaints.push(text));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      window.complain(`CSP: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  page_response = await page.goto(URL_UNDER_TEST);
});

after(() => browser?.close());

const card = (transport) => page.locator(`[data-transport="${transport}"]`);
const field = (transport, name) => card(transport).locator(`[data-field="${name}"]`);
const number = async (locator) => Number((await locator.textContent()).replaceAll(',', ''));

/** Resolves once `selector` exists and is seen; the page changes it, so nothing is polled from here. */
const seen = (selector) => page.waitForSelector(selector);
const inCard = (transport, selector) => `[data-transport="${transport}"] ${selector}`;

function waitForEvents(transport, least) {
  return page.waitForFunction(([key, count]) => {
    const node = document.querySelector(`[data-transport="${key}"] [data-field="events"]`);
    return Number(node.textContent.replaceAll(',', '')) >= count;
  }, [transport, least]);
}

/** Starts with a clean page: cuts of one test must not be looked at by the next. */
async function reload() {
  await page.goto(URL_UNDER_TEST);
  for (const transport of TRANSPORTS) await seen(`[data-transport="${transport}"][data-state="live"]`);
}

async function assertCleanResume(transport) {
  const result = await seen(inCard(transport, '[data-outcome]:not([data-outcome=""])'));
  const { outcome, resumed, lost, repeated } = await result.evaluate((node) => ({ ...node.dataset }));
  assert.equal(outcome, 'good', transport);
  assert.equal(lost, '0', transport);
  assert.equal(repeated, '0', transport);
  assert.ok(Number(resumed) >= 3, `${transport} was away for 5 s, with an event a second, and got ${resumed}`);
}

test('the page forbids everything that is not its own', () => {
  assert.equal(page_response.status(), 200);
  assert.match(page_response.headers()['content-security-policy'] ?? '', /default-src 'self'/);
});

test('all four transports deliver the same log', async () => {
  for (const transport of TRANSPORTS) {
    await waitForEvents(transport, 3);
    await seen(`[data-transport="${transport}"][data-state="live"]`);
    await field(transport, 'median').filter({ hasText: /^[\d.]+ (ms|s)$/ }).waitFor();
    assert.ok(await number(field(transport, 'requests')) >= 1, transport);
    assert.notEqual(await field(transport, 'bytes').textContent(), '0 B', transport);
    assert.equal(await field(transport, 'gaps').textContent(), '0', transport);
    assert.equal(await field(transport, 'repeats').textContent(), '0', transport);
  }
  await seen('[data-verdict="same"]');
});

test('short polling and long polling cost requests, the streams do not', async () => {
  for (const transport of TRANSPORTS) await waitForEvents(transport, 4);
  for (const transport of ['sse', 'websocket']) assert.equal(await number(field(transport, 'requests')), 1, transport);
  for (const transport of ['short-polling', 'long-polling']) {
    assert.ok(await number(field(transport, 'requests')) >= 3, transport);
  }
});

test('the host figures are real and drawn', async () => {
  for (const tile of ['cpu', 'load', 'memory', 'network']) {
    await page.waitForFunction((name) => {
      const node = document.querySelector(`[data-tile="${name}"]`);
      return /\d/.test(node.querySelector('[data-value]').textContent)
        && node.querySelector('path.line').getAttribute('d')?.includes('L');
    }, tile);
  }
});

test('a published note appears in all four', async () => {
  const text = `note ${Date.now()}`;
  await page.fill('#note', text);
  await page.keyboard.press('Enter');
  await seen('[data-publish-result="good"]');
  const ids = new Set();
  for (const transport of TRANSPORTS) {
    const item = card(transport).locator('[data-notes] li', { hasText: text });
    await item.waitFor();
    assert.equal(await item.count(), 1, transport);
    assert.match(await item.locator('.note-latency').textContent(), /^[\d.]+ (ms|s)/, transport);
    ids.add(await item.getAttribute('data-id'));
  }
  assert.equal(ids.size, 1, 'one note has one id, whatever the transport');
});

test('a note from elsewhere, without a time in it, appears in all four', async () => {
  const text = `plain ${Date.now()}`;
  const answer = await fetch(new URL('/v1/channels/host/events', URL_UNDER_TEST), {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'tidewire-event': 'note' },
    body: JSON.stringify({ text }),
  });
  assert.equal(answer.status, 201);
  for (const transport of TRANSPORTS) await card(transport).locator('[data-notes] li', { hasText: text }).waitFor();
});

test('a refusal is shown in the words of the server', async () => {
  const detail = 'This key was used for another note.';
  const problem = { type: 'about:blank', title: 'Refused', status: 422, code: 'idempotency_conflict', detail };
  await page.route('**/v1/channels/host/events', (route) => (route.request().method() === 'POST'
    ? route.fulfill({ status: 422, contentType: 'application/problem+json', body: JSON.stringify(problem) })
    : route.fallback()));
  await page.fill('#note', 'refused');
  await page.keyboard.press('Enter');
  await seen('[data-publish-result="bad"]');
  assert.equal(await page.locator('[data-publish-result]').textContent(), detail);
  await page.unroute('**/v1/channels/host/events');
  // The browser itself logs the refused request; that complaint is this test's own doing.
  const own = complaints.findIndex((text) => text.includes('422'));
  if (own >= 0) complaints.splice(own, 1);
});

for (const transport of TRANSPORTS) {
  test(`${transport} resumes after a cut with nothing lost or repeated`, async () => {
    await reload();
    await waitForEvents(transport, 1);
    await card(transport).locator('[data-cut]').click();
    await seen(`[data-transport="${transport}"][data-state="cut"]`);
    const at_cut = await number(field(transport, 'events'));
    await seen(inCard(transport, '[data-cut]:has-text("1 s left")'));
    assert.equal(await number(field(transport, 'events')), at_cut, 'nothing arrives while cut');
    await assertCleanResume(transport);
    await seen('[data-verdict="same"]');
  });
}

test('all four cut at once resume with nothing lost or repeated', async () => {
  await reload();
  for (const transport of TRANSPORTS) await waitForEvents(transport, 1);
  for (const transport of TRANSPORTS) await card(transport).locator('[data-cut]').click();
  for (const transport of TRANSPORTS) {
    await assertCleanResume(transport);
  }
  await seen('[data-verdict="same"]');
});

/** Falsifies one answer of short polling that has at least two events, as a broken server or cache would. */
async function tamperOnce(change) {
  let is_done = false;
  await page.route(/\/v1\/channels\/host\/events\?since=[^&]*$/, async (route) => {
    const is_poll = route.request().resourceType() === 'fetch';
    if (!is_poll || is_done) return route.fallback();
    const response = await route.fetch();
    if (response.status() !== 200) return route.fulfill({ response });
    const answer = await response.json();
    if (answer.events.length >= 2) {
      is_done = true;
      change(answer.events);
    }
    return route.fulfill({ response, json: answer });
  });
}

test('an event that is left out after a cut is noticed', async () => {
  await reload();
  await waitForEvents('short-polling', 1);
  await card('short-polling').locator('[data-cut]').click();
  await tamperOnce((events) => events.splice(1, 1));
  await seen('[data-transport="short-polling"] [data-outcome="bad"][data-lost="1"]');
  await seen('[data-verdict="differs"]');
  await page.unrouteAll({ behavior: 'wait' });
});

test('an event that comes twice after a cut is noticed', async () => {
  await reload();
  await waitForEvents('short-polling', 1);
  await card('short-polling').locator('[data-cut]').click();
  await tamperOnce((events) => events.unshift(events[0]));
  await seen('[data-transport="short-polling"] [data-outcome="bad"][data-lost="0"][data-repeated="1"]');
  assert.equal(await field('short-polling', 'repeats').textContent(), '1');
  await seen('[data-verdict="differs"]');
  await page.unrouteAll({ behavior: 'wait' });
});

test('nothing overflows sideways, wide or narrow, and it looks right in both themes', async () => {
  await reload();
  await page.fill('#note', 'longer than any card is wide, '.repeat(6));
  await page.keyboard.press('Enter');
  for (const transport of TRANSPORTS) await card(transport).locator('[data-notes] li').waitFor();
  for (const viewport of [WIDE, { width: 820, height: 1100 }, NARROW]) {
    await page.setViewportSize(viewport);
    await waitForEvents('short-polling', 3);
    const wider = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wider[0] <= wider[1], `${viewport.width}: the page is ${wider[0]} wide`);
    // Neither out of the page nor out of the card that holds it: the page may hide the one, the eye sees the other.
    const cut_off = await page.evaluate(() => [...document.querySelectorAll('main *')]
      .filter((node) => node.getClientRects().length > 0 && !node.closest('.note-text'))
      .filter((node) => {
        const edge = node.closest('.column, .snippets > li')?.getBoundingClientRect().right ?? innerWidth;
        return node.getBoundingClientRect().right > edge + 0.5;
      })
      .map((node) => `${node.tagName} ${node.className}`));
    assert.deepEqual(cut_off, [], `${viewport.width}: these end outside`);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      await screenshot(`demo-${viewport.width}-${colorScheme}.png`);
    }
  }
  await page.setViewportSize(WIDE);
});

async function screenshot(name) {
  const directory = process.env.SCREENSHOT_DIR;
  if (!directory) return;
  await mkdir(directory, { recursive: true });
  // The strips take the theme's colours with their next frame, and no two frames of them are the same.
  const before = await page.evaluate(() => document.querySelector('canvas').toDataURL());
  await page.waitForFunction((image) => document.querySelector('canvas').toDataURL() !== image, before);
  await page.screenshot({ path: join(directory, name), fullPage: true });
}

test('everything can be reached by keyboard', async () => {
  await reload();
  const reached = await page.evaluate(() => [...document.querySelectorAll('button, input, a')]
    .filter((node) => node.tabIndex < 0).map((node) => node.outerHTML));
  assert.deepEqual(reached, []);
  await card('websocket').locator('[data-cut]').focus();
  await page.keyboard.press('Enter');
  await seen('[data-transport="websocket"][data-state="cut"]');
});

test('the console stayed clean and no policy was violated', () => {
  assert.deepEqual(complaints, []);
});
