// How the positions of many channels become one request. Must not read ids: which part of a joined cursor belongs
// to which channel is the server's to know, so a position carries the names of all channels that it speaks of.
import type { Want } from './types';

/** What one multi-channel request can say (`since`), and which channels need a request of their own first. */
export interface Plan { since: string | undefined; settle: Want[] }

/**
 * A joined cursor may hold one id for each channel, and none of a channel that is not asked for if any channel asked
 * for has no id (the protocol calls that a gap). Whatever would break either rule is settled on its own.
 */
export function plan(wants: readonly Want[]): Plan {
  const asked = new Set(wants.map((want) => want.channel));
  const settle = wants.filter((want) => !want.position && want.snapshot);
  const words = new Set(wants.filter((want) => !want.position && !want.snapshot).map((want) => want.since ?? ''));
  const positions = new Set(wants.flatMap((want) => want.position ?? []));
  if (positions.size === 0 && settle.length === 0 && words.size <= 1) {
    return { since: [...words][0] || undefined, settle };
  }
  const speakers = new Map<string, number>();
  for (const position of positions) {
    for (const channel of position.channels) speakers.set(channel, (speakers.get(channel) ?? 0) + 1);
  }
  const foreign = [...speakers.keys()].some((channel) => !asked.has(channel));
  for (const want of wants) {
    const position = want.position;
    if (position) {
      const disputed = position.channels.some((channel) => (speakers.get(channel) ?? 0) > 1);
      if (disputed && position.channels.length > 1) settle.push(want);
    } else if (!want.snapshot && (want.since || foreign)) settle.push(want);
  }
  const unsettled = wants.filter((want) => want.position && !settle.includes(want));
  const since = [...new Set(unsettled.map((want) => want.position!.cursor))].join('.');
  return { since: since || undefined, settle };
}
