// Owns: asking before something is done that cannot be undone, and asking the server to drain.
// Must not know: what is done.

import { ask } from './api.js';
import { find, say, setText } from './dom.js';

/** Asks in a dialog, and runs what was asked about. Resolves to whether it was done. `word` must be typed first. */
export function createConfirm() {
  const dialog = find('[data-dialog]');
  const result = find('[data-dialog-result]');
  const input = find('#word');
  const button = find('[data-dialog-do]');
  let asked = null;

  const finish = (done) => {
    const { resolve } = asked;
    asked = null;
    dialog.close();
    resolve(done);
  };
  input.addEventListener('input', () => {
    button.disabled = asked?.word !== undefined && input.value.trim() !== asked.word;
  });
  find('[data-dialog-cancel]').addEventListener('click', () => finish(false));
  dialog.addEventListener('cancel', (event) => {
    event.preventDefault();
    if (asked) finish(false);
  });
  find('[data-dialog-form]').addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!asked || button.disabled) return;
    button.disabled = true;
    try {
      await asked.run();
      finish(true);
    } catch (error) {
      button.disabled = false;
      say(result, error.message, 'bad');
    }
  });

  return ({ title, text, verb, word, run }) => new Promise((resolve) => {
    asked = { word, run, resolve };
    setText(find('[data-dialog-title]'), title);
    setText(find('[data-dialog-text]'), text);
    setText(button, verb);
    say(result, '');
    find('[data-dialog-word]').hidden = word === undefined;
    setText(find('[data-dialog-expected]'), word ?? '');
    input.value = '';
    button.disabled = word !== undefined;
    dialog.showModal();
  });
}

export function createDrain({ confirm }) {
  find('[data-drain-open]').addEventListener('click', () => confirm({
    title: 'Drain this server?',
    text: 'It says that it is not ready, takes no new connections, tells every client when to come back, and ends. '
      + 'Whatever runs it must start it again.',
    verb: 'Drain',
    word: 'drain',
    run: () => ask('/v1/admin/drain', { method: 'POST' }),
  }));
}
