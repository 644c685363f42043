// Channels over plain requests: an event stream, held polls, short polls. Each asks for all channels at once, after
// what cannot be said in one request (see `positions.ts`). Must not know backoff; a failed request ends the link.
import * as limits from '../limits';
import { plan } from '../positions';
import { SseParser } from '../sse';
import { TidewireError } from '../types';
import type { LinkMessage, Position, Want } from '../types';
import { asError, get, request } from './link';
import type { Environment, Link, OpenLink, Sink } from './link';
import { event, gaps, pathOf } from './wire';
import type { Page, WireEvent, WireGap } from './wire';

type Run = (environment: Environment, query: URLSearchParams, sink: Sink, signal: AbortSignal) => Promise<void>;

export const openSse: OpenLink = (environment, wants, sink) => open(environment, wants, sink, stream);
export const openLongPoll: OpenLink = (environment, wants, sink) => open(environment, wants, sink, (...args) => polls(true, ...args));
export const openPoll: OpenLink = (environment, wants, sink) => open(environment, wants, sink, (...args) => polls(false, ...args));

export function open(environment: Environment, wants: readonly Want[], sink: Sink, run: Run): Link {
  const abort = new AbortController();
  const guarded: Sink = { open: () => {}, message: (message) => abort.signal.aborted || sink.message(message) };
  settled(environment, wants, guarded, abort.signal)
    .then((query) => run(environment, query, guarded, abort.signal))
    .then(
      () => guarded.message({ type: 'closed' }),
      (error: unknown) => guarded.message({ type: 'closed', error: asError(error) }),
    );
  return { send: () => {}, close: () => abort.abort() };
}

/** Settles what must be, and gives the query for the rest. */
async function settled(environment: Environment, wants: readonly Want[], sink: Sink, signal: AbortSignal): Promise<URLSearchParams> {
  if (wants.length > limits.requestChannelsMax) {
    throw new TidewireError('too_many_channels', `${wants.length} channels, of which one request takes ${limits.requestChannelsMax}: allow the transport websocket`, 400);
  }
  const { settle } = plan(wants);
  const now: Want[] = wants.filter((want) => !settle.includes(want));
  for (const want of settle) {
    try {
      now.push({ channel: want.channel, position: await settleOne(environment, want, sink, signal), snapshot: false });
    } catch (error) {
      const { status, code, message } = asError(error);
      if (!want.alone || !status) throw error;
      sink.message({ type: 'error', channel: want.channel, code, message });
    }
  }
  const query = new URLSearchParams(now.map((want) => ['channel', want.channel]));
  const { since } = plan(now);
  if (since) query.set('since', since);
  return query;
}

async function settleOne(environment: Environment, want: Want, sink: Sink, signal: AbortSignal): Promise<Position> {
  const { channel, position, since = 'latest' } = want;
  const channels = [channel];
  if (want.snapshot && !position) {
    const { cursor, state } = await get<{ cursor: string; state: unknown }>(environment, pathOf(channel), signal);
    sink.message({ type: 'snapshot', snapshot: { channel, cursor, state } });
    return { cursor, channels };
  }
  const query = new URLSearchParams({ since: position?.cursor ?? since, limit: '1000' });
  const page = await get<Page>(environment, `${pathOf(channel)}/events?${query}`, signal);
  give(page, sink, channel);
  return { cursor: page.cursor, channels };
}

/** The cursor covers the whole page only; before its end each event stands for its own channel alone. */
export function give(page: Page, sink: Sink, channel?: string): void {
  for (const gap of gaps(page.gap)) sink.message(gap);
  for (const wire of page.events) sink.message({ type: 'event', event: event(wire, channel) });
}

/** The whole stream begins with its position: its arrival shows that nothing on the path holds the stream back. */
const stream: Run = async (environment, query, sink, signal) => {
  const response = await request(environment, `/v1/events?${query}`, { signal, headers: { Accept: 'text/event-stream' } });
  if (!response.headers.get('Content-Type')?.startsWith('text/event-stream')) throw new Error('the answer is no event stream');
  const parser = new SseParser(
    limits.streamBufferMax,
    ({ name, data, id }) => fromStream(name, JSON.parse(data), id).forEach(sink.message),
    (id) => sink.message(id ? { type: 'position', cursor: id } : { type: 'alive' }),
  );
  const decoder = new TextDecoder();
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parser.push(decoder.decode(value, { stream: true }));
  }
};

/** What an event of a stream over several channels says. */
export function fromStream(name: string, wire: unknown, cursor: string): LinkMessage[] {
  if (name === 'tidewire.gap') return gaps(wire as WireGap);
  if (name === 'tidewire.reconnect') return [{ type: 'reconnect', afterMs: (wire as { after_ms: [number, number] }).after_ms }];
  return [name.startsWith('tidewire.') ? { type: 'alive' } : { type: 'event', event: event(wire as WireEvent), cursor }];
}

async function polls(held: boolean, environment: Environment, query: URLSearchParams, sink: Sink, signal: AbortSignal): Promise<void> {
  // The first answer is not held: it is the sign that the path works.
  let wait = 0;
  for (;;) {
    // Always said, also as 0: without it a channel that the cursor says nothing of would begin at its oldest event.
    query.set('wait', String(wait));
    const page = await get<Page>(environment, `/v1/events?${query}`, signal);
    give(page, sink);
    sink.message({ type: 'position', cursor: page.cursor });
    query.set('since', page.cursor);
    wait = held && !page.more ? limits.pollWaitSeconds : 0;
    if (!held && !page.more) await new Promise((resolve) => setTimeout(resolve, limits.pollIntervalMs));
  }
}
