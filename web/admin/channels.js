// Owns: the list of channels: search, pages, deleting. Must not know: what a channel holds.

import { ask } from './api.js';
import { fillTable, find, make, say } from './dom.js';
import { bytes, count } from './format.js';

const PAGE = 50;

const time = (end) => (end?.time ? end.time.slice(0, 19).replace('T', ' ') : '–');

export function createChannels({ confirm, onRefused }) {
  const result = find('[data-channels-result]');
  const next = find('[data-channels-next]');
  const first = find('[data-channels-first]');
  let last_name = '';
  let after = '';
  let asked = 0;

  const columns = [
    { title: 'Channel', kind: 'name', of: (row) => row.channel },
    { title: 'Subscribers', kind: 'number', of: (row) => count(row.subscribers) },
    { title: 'Published/s', kind: 'number', of: ({ published_per_second: rate }) => (rate === null ? '–' : rate.toFixed(1)) },
    { title: 'Events', kind: 'number', of: (row) => count(row.events) },
    { title: 'Bytes', kind: 'number', of: (row) => bytes(row.bytes) },
    { title: 'First', kind: 'number', of: (row) => make('span', { title: row.first?.id ?? '' }, time(row.first)) },
    { title: 'Last (UTC)', kind: 'number', of: (row) => make('span', { title: row.last?.id ?? '' }, time(row.last)) },
    { title: 'Kept', of: (row) => row.durability },
    {
      title: '', kind: 'number', of: (row) => make('button', {
        type: 'button', className: 'small', 'aria-label': `Delete ${row.channel}`, onclick: () => remove(row),
      }, 'Delete…'),
    },
  ];

  async function load() {
    const number = ++asked;
    const query = new URLSearchParams({ limit: PAGE });
    const prefix = find('#prefix').value.trim();
    if (prefix) query.set('prefix', prefix);
    if (after) query.set('after', after);
    try {
      const { channels, more } = await ask(`/v1/admin/channels?${query}`);
      if (number !== asked) return;
      last_name = channels.at(-1)?.channel ?? '';
      fillTable(find('[data-channels]'), columns, channels, prefix ? `No channel begins with “${prefix}”.` : 'There is no channel yet.');
      next.disabled = !more;
      first.disabled = !after;
      say(result, '');
    } catch (error) {
      if (number === asked && !onRefused(error)) say(result, error.message, 'bad');
    }
  }

  async function remove({ channel, events, subscribers }) {
    const done = await confirm({
      title: `Delete ${channel}?`,
      text: `Its ${count(events)} events, its state and its idempotency keys go, and do not come back. ${count(subscribers)} subscribers stay, and get what is published from then on.`,
      verb: 'Delete',
      run: () => ask(`/v1/channels/${encodeURIComponent(channel)}`, { method: 'DELETE' }),
    });
    if (!done) return;
    await load();
    say(result, `${channel} was deleted.`, 'good');
  }

  find('[data-channels-form]').addEventListener('submit', (event) => {
    event.preventDefault();
    after = '';
    load();
  });
  next.addEventListener('click', () => {
    after = last_name;
    load();
  });
  first.addEventListener('click', () => {
    after = '';
    load();
  });
  return { load };
}
