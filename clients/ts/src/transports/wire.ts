// The forms of the wire that several transports share, and what they mean here. Pure.
import type { Gap, TidewireEvent } from '../types';

/** What a poll answers. */
export interface Page { events: WireEvent[]; cursor: string; more: boolean; gap: WireGap | null }
export interface WireEvent { channel?: string; id: string; time: string; event?: string; key?: string; data?: unknown; data_base64?: string; content_type?: string }
export interface WireGap { channel?: string; channels?: string[]; requested: string; resumed_from: string }

export function pathOf(channel: string): string {
  return `/v1/channels/${encodeURIComponent(channel)}`;
}

export function event(wire: WireEvent, channel = wire.channel!): TidewireEvent {
  const { id, time, data_base64: base64, event: name, key, content_type: contentType } = wire;
  const data = base64 === undefined ? wire.data : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return { channel, id, time, data, ...(name && { event: name }), ...(key && { key }), ...(contentType && { contentType }) };
}

/** One gap for each channel that the wire's names. */
export function gaps(wire: WireGap | null): { type: 'gap'; gap: Gap }[] {
  if (!wire) return [];
  return (wire.channels ?? [wire.channel!]).map((channel) => ({ type: 'gap', gap: { channel, requested: wire.requested, resumedFrom: wire.resumed_from } }));
}
