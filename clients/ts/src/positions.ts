// How the positions of many channels become one request. Must not read ids: which part of a joined cursor belongs
// to which channel is the server's to know, so a position carries the names of all channels that it speaks of.
import type { Want } from './types';

/** What one multi-channel request can say (`since`), and which channels need a request of their own first. */
export interface Plan { since: string | undefined; settle: Want[] }

/**
 * A joined cursor may hold one id for each channel, and none of a channel that is not asked for (the protocol calls
 * that a gap on channels without an id). So a joined position is used whole, by all the channels that it speaks of,
 * or by none. Once what is to settle has a position of its own, nothing else is to settle.
 */
export function plan(wants: readonly Want[]): Plan {
  const positions = new Map(wants.map((want) => [want.channel, want.position]));
  const words = new Set(wants.map((want) => (want.position || want.snapshot ? '' : want.since)));
  if (words.size === 1 && !words.has('')) return { since: [...words][0], settle: [] };
  const settle = wants.filter(({ position, snapshot, since }) => (position ? position.channels.some((channel) => positions.get(channel) !== position) : snapshot || since));
  const cursors = new Set(wants.flatMap((want) => (want.position && !settle.includes(want) ? want.position.cursor : [])));
  return { since: [...cursors].join('.') || undefined, settle };
}
