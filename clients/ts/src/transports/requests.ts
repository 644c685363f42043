// Channels over plain requests: an event stream, held polls, short polls. Each asks for all channels at once, after
// what cannot be said in one request (see `positions.ts`). Must not know backoff; a failed request ends the link.
import { limits } from '../limits';
import { plan } from '../positions';
import { SseParser } from '../sse';
import type { LinkMessage, Position, Want } from '../types';
import { Refused, event, gaps, get, refusal, request } from './link';
import type { Environment, Link, OpenLink, Sink } from './link';

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
      (error: unknown) => guarded.message(error instanceof Refused ? error.message_ : { type: 'closed', detail: String(error) }),
    );
  return { send: () => {}, close: () => abort.abort() };
}

/** Settles what must be, and gives the query for the rest. */
async function settled(environment: Environment, wants: readonly Want[], sink: Sink, signal: AbortSignal): Promise<URLSearchParams> {
  if (wants.length > limits.requestChannelsMax) {
    const detail = `${wants.length} channels, of which one request takes ${limits.requestChannelsMax}: allow the transport websocket`;
    throw new Refused({ type: 'closed', status: 400, error: 'too_many_channels', detail });
  }
  const { settle } = plan(wants);
  const now: Want[] = wants.filter((want) => !settle.includes(want));
  for (const want of settle) now.push({ ...want, position: await settleOne(environment, want, sink, signal), snapshot: false });
  const query = new URLSearchParams(now.map((want) => ['channel', want.channel]));
  const { since } = plan(now);
  if (since) query.set('since', since);
  return query;
}

async function settleOne(environment: Environment, want: Want, sink: Sink, signal: AbortSignal): Promise<Position> {
  const path = `/v1/channels/${want.channel}`;
  const channels = [want.channel];
  if (want.snapshot && !want.position) {
    const { cursor, state } = await get(environment, path, signal);
    sink.message({ type: 'snapshot', snapshot: { channel: want.channel, cursor, state } });
    return { cursor, channels };
  }
  const since = want.position?.cursor ?? want.since ?? 'latest';
  const answer = await get(environment, `${path}/events?${new URLSearchParams({ since, limit: '1000' })}`, signal);
  for (const gap of gaps(answer.gap)) sink.message({ type: 'gap', gap });
  for (const wire of answer.events) sink.message({ type: 'event', event: event(wire, want.channel) });
  return { cursor: answer.cursor, channels };
}

/** The whole stream begins with its position: its arrival shows that nothing on the path holds the stream back. */
const stream: Run = async (environment, query, sink, signal) => {
  const response = await request(environment, `/v1/events?${query}`, { signal, headers: { Accept: 'text/event-stream' } });
  if (!response.ok) throw new Refused(await refusal(response));
  if (!response.headers.get('Content-Type')?.startsWith('text/event-stream')) throw new Error('the answer is no event stream');
  const parser = new SseParser(limits.streamBufferMax, ({ name, data, id }) => sink.message(fromStream(name, data, id)), (id) => {
    sink.message(id ? { type: 'position', cursor: id } : { type: 'alive' });
  }, (gap) => gaps(JSON.parse(gap)).forEach((each) => sink.message({ type: 'gap', gap: each })));
  const decoder = new TextDecoder();
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parser.push(decoder.decode(value, { stream: true }));
  }
};

function fromStream(name: string, data: string, cursor: string): LinkMessage {
  if (name === 'tidewire.reconnect') return { type: 'reconnect', afterMs: JSON.parse(data).after_ms };
  if (name.startsWith('tidewire.')) return { type: 'alive' };
  return { type: 'event', event: event(JSON.parse(data)), cursor };
}

async function polls(held: boolean, environment: Environment, query: URLSearchParams, sink: Sink, signal: AbortSignal): Promise<void> {
  let more = false;
  // The first answer is not held: it is the sign that the path works.
  for (let first = true; ; first = false) {
    const wait = held && !first && !more ? limits.pollWaitSeconds : 0;
    // Always said, also as 0: without it a channel that the cursor says nothing of would begin at its oldest event.
    query.set('wait', String(wait));
    const answer = await get(environment, `/v1/events?${query}`, signal);
    for (const gap of gaps(answer.gap)) sink.message({ type: 'gap', gap });
    // The cursor covers the whole answer only; before its end each event stands for its own channel alone.
    for (const wire of answer.events) sink.message({ type: 'event', event: event(wire) });
    sink.message({ type: 'position', cursor: answer.cursor });
    query.set('since', answer.cursor);
    more = answer.more;
    if (!held && !more) await new Promise((resolve) => setTimeout(resolve, limits.pollIntervalMs));
  }
}
