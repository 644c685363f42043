// How positions become requests. Must not know who made the positions.
import { expect, test } from 'vitest';
import { plan } from '../src/positions';
import type { Position, Want } from '../src/types';
import { seeded } from './proxy';

const own = (channel: string): Position => ({ cursor: `e${channel}-1`, channels: [channel] });

test('a channel that joins others which stand at a common position costs none of them its position', () => {
  const joined: Position = { cursor: 'ea-1.eb-1', channels: ['a', 'b'] };
  const wants: Want[] = [{ channel: 'a', since: 'ea-5', snapshot: false }, { channel: 'b', position: joined, snapshot: false }];
  expect(plan(wants).settle.map(({ channel }) => channel)).toEqual(['a', 'b']);
  const settled = wants.map((want) => ({ ...want, position: own(want.channel) }));
  expect(plan(settled)).toEqual({ since: 'ea-1.eb-1', settle: [] });
});

test('what all want alike needs no request of its own', () => {
  expect(plan([{ channel: 'a', since: 'earliest', snapshot: false }, { channel: 'b', since: 'earliest', snapshot: false }])).toEqual({ since: 'earliest', settle: [] });
  expect(plan([{ channel: 'a', snapshot: false }])).toEqual({ since: undefined, settle: [] });
  const joined: Position = { cursor: 'ea-1.eb-1', channels: ['a', 'b'] };
  expect(plan(['a', 'b'].map((channel) => ({ channel, position: joined, snapshot: false })))).toEqual({ since: joined.cursor, settle: [] });
});

test('whatever was wanted, once it is settled the request names each position once, and nothing that makes a gap', () => {
  const random = seeded(7);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)]!;
  const names = ['a', 'b', 'c', 'd'];
  for (let round = 0; round < 5_000; round++) {
    const joined = [0, 1].map(() => names.filter(() => random() < 0.6)).map((channels) => ({ cursor: channels.map((channel) => `e${channel}-9`).join('.'), channels }));
    const wants = names.filter(() => random() < 0.7).map((channel): Want => {
      const position = pick([undefined, own(channel), ...joined.filter(({ channels }) => channels.includes(channel))]);
      const since = pick([undefined, 'earliest', `e${channel}-3`]);
      return { channel, snapshot: !position && !since && random() < 0.5, ...(position && { position }), ...(since && { since }) };
    });
    const { settle } = plan(wants);
    const settled = wants.map((want) => (settle.includes(want) ? { ...want, snapshot: false, position: own(want.channel) } : want));
    const result = plan(settled);
    expect(result.settle).toEqual([]);
    const ids = (result.since ?? '').split('.').filter(Boolean);
    const spoken = ids.map((id) => id.replace(/^e(.)-\d+$/, '$1'));
    if (settled.every(({ position }) => !position)) expect(new Set(settled.map(({ since }) => since))).toEqual(new Set(settled.length ? [result.since] : []));
    else {
      const positioned = settled.filter(({ position }) => position).map(({ channel }) => channel);
      const asked = new Set(settled.map(({ channel }) => channel));
      expect(new Set(spoken).size).toBe(spoken.length);
      expect(spoken.filter((channel) => asked.has(channel)).sort()).toEqual(positioned.sort());
      // What is not asked for makes gaps only where a channel asked for has no id.
      if (positioned.length < settled.length) expect(spoken.every((channel) => asked.has(channel))).toBe(true);
    }
  }
});
