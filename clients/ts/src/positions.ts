// How the positions of many channels become one request. Must not read ids: which part of a joined cursor belongs
// to which channel is the server's to know, so a position carries the names of all channels that it speaks of.
import type { Position, Want } from './types';

/** What one multi-channel request can say (`since`), and which channels need a request of their own first. */
export interface Plan { since: string | undefined; settle: Want[] }

/**
 * A joined cursor may hold one id for each channel, and none of a channel that is not asked for if any channel asked
 * for has no id (the protocol calls that a gap). Whatever would break either rule is settled on its own; once all of
 * that has a position of its own, nothing else is to settle.
 */
export function plan(wants: readonly Want[]): Plan {
  const positions = new Map(wants.map((want) => [want.channel, want.position]));
  const words = new Set(wants.map((want) => (want.position || want.snapshot ? '' : want.since)));
  if (words.size === 1 && !words.has('')) return { since: [...words][0], settle: [] };
  const spoken = [...new Set(positions.values())].flatMap((position) => position?.channels ?? []);
  const foreign = spoken.some((channel) => !positions.has(channel));
  const disputed = (position: Position) => position.channels.length > 1 && position.channels.some((channel) => (
    positions.has(channel) ? positions.get(channel) !== position : spoken.indexOf(channel) !== spoken.lastIndexOf(channel)));
  const settle = wants.filter(({ position, snapshot, since, alone }) => alone || (position ? disputed(position) : snapshot || since || foreign));
  const cursors = new Set(wants.flatMap((want) => (want.position && !settle.includes(want) ? want.position.cursor : [])));
  return { since: [...cursors].join('.') || undefined, settle };
}
