// Owns: the list of users with streams, and sending them away. Must not know: how users are found out.

import { ask } from './api.js';
import { fillTable, find, make, say, setText } from './dom.js';
import { count } from './format.js';

const PAGE = 50;

export function createUsers({ confirm, onRefused }) {
  const result = find('[data-users-result]');
  const next = find('[data-users-next]');
  const first = find('[data-users-first]');
  let last_name = '';
  let after = '';

  const columns = [
    { title: 'User', kind: 'name', of: (row) => row.user },
    { title: 'Connections', kind: 'number', of: (row) => count(row.connections) },
    { title: 'Subscriptions', kind: 'number', of: (row) => count(row.subscriptions) },
    {
      title: '', kind: 'number', of: (row) => make('button', {
        type: 'button', className: 'small', 'aria-label': `Disconnect ${row.user}`, onclick: () => disconnect(row),
      }, 'Disconnect…'),
    },
  ];

  async function load() {
    const query = new URLSearchParams({ limit: PAGE });
    if (after) query.set('after', after);
    try {
      const { users, count: all, more } = await ask(`/v1/admin/users?${query}`);
      last_name = users.at(-1)?.user ?? '';
      fillTable(find('[data-users]'), columns, users, 'No user has a stream open. Streams without a token have no user.');
      setText(find('[data-users-count]'), `${count(all)} users with streams`);
      next.disabled = !more;
      first.disabled = !after;
      say(result, '');
    } catch (error) {
      if (!onRefused(error)) say(result, error.message, 'bad');
    }
  }

  async function disconnect({ user, connections }) {
    let ended = { connections: 0, servers_told: 0 };
    const done = await confirm({
      title: `Disconnect ${user}?`,
      text: `Ends ${count(connections)} streams. Their tokens stay good, so they may come back at once.`,
      verb: 'Disconnect',
      run: async () => {
        ended = await ask(`/v1/admin/users/${encodeURIComponent(user)}/disconnect`, { method: 'POST' });
      },
    });
    if (!done) return;
    await load();
    const others = ended.servers_told > 0 ? `, and ${count(ended.servers_told)} other servers were told to end theirs` : '';
    say(result, `${count(ended.connections)} streams of ${user} were ended${others}.`, 'good');
  }

  find('[data-users-reload]').addEventListener('click', load);
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
