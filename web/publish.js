// Owns: publishing a note: the form, the request, its retries, what is said about it.
// Must not know: how the note comes back.

import { createBackoff, sleep } from './backoff.js';
import * as clock from './clock.js';
import { ProblemError, request } from './http.js';

const ATTEMPTS_MAX = 4;
const TIMEOUT_MS = 10_000;
const UNREACHED = 'The server could not be reached. Publish again: it will be counted once.';

export function createPublisher(form, { channel }) {
  const input = form.elements.note;
  const button = form.querySelector('button');
  const result = form.querySelector('[data-publish-result]');
  // The note that is under way, or whose fate is unknown because no answer came.
  let pending = null;

  function say(kind, text) {
    result.dataset.publishResult = kind;
    result.textContent = text;
  }

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text === '' || button.disabled) return;
    button.disabled = true;
    say('', '');
    try {
      // The same text again after such a failure is the same note: with its first key it cannot be made twice.
      if (pending?.text !== text) pending = { text, key: randomKey(), sent_ms: clock.sendingTime() };
      const { id, duplicate } = await publish(channel, pending);
      pending = null;
      say('good', duplicate ? `Published once as ${id}; the retry made no second event.` : `Published as ${id}.`);
      input.value = '';
    } catch (error) {
      if (error.is_final) pending = null;
      say('bad', error instanceof ProblemError ? error.message : UNREACHED);
    } finally {
      button.disabled = false;
    }
  });
}

/** One key for all attempts: where only the answer was lost, the retry finds the event that was made. */
async function publish(channel, { text, key, sent_ms }) {
  const body = JSON.stringify({ sent_ms, text });
  const backoff = createBackoff();
  for (let attempt = 1; ; attempt += 1) {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    try {
      const { json } = await request(`/v1/channels/${channel}/events`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Tidewire-Event': 'note', 'Idempotency-Key': key },
        body,
        signal,
      });
      return json;
    } catch (error) {
      const is_final = error instanceof ProblemError && error.is_final;
      if (is_final || attempt === ATTEMPTS_MAX) throw error;
      await sleep(backoff.next(error.retry_after_ms));
    }
  }
}

/** crypto.randomUUID() is missing on plain HTTP away from localhost, where this page must work too. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
