// The browser's own EventSource, for pages that have nothing but a cookie or a ticket. It hides heartbeats, positions
// without an event, and why it failed; so the position is asked for first, and its own reconnecting is never used.
import type { LinkMessage } from '../types';
import { event, gaps, get, ticketed } from './link';
import { open } from './requests';
import type { OpenLink } from './link';

export const openEventSource: OpenLink = (environment, wants, sink) => open(environment, wants, sink, async (_, query, guarded, signal) => {
  if (!query.has('since')) {
    query.set('wait', '0');
    query.set('limit', '1');
    query.set('since', (await get(environment, `/v1/events?${query}&since=latest`, signal)).cursor);
    query.delete('wait');
    query.delete('limit');
  }
  const url = await ticketed(environment, `/v1/events?${query}`);
  return new Promise<void>((resolve, reject) => {
    const source = new environment.EventSource!(url.href, { withCredentials: environment.credentials === 'include' });
    const end = () => {
      source.close();
      resolve();
    };
    signal.addEventListener('abort', end, { once: true });
    source.onopen = () => guarded.message({ type: 'position', cursor: query.get('since')! });
    source.onerror = end;
    const on = (name: string, make: (wire: any, cursor: string) => LinkMessage[]) => source.addEventListener(name, ({ data, lastEventId }: MessageEvent) => {
      try {
        make(JSON.parse(data), lastEventId).forEach(guarded.message);
      } catch (error) {
        source.close();
        reject(error);
      }
    });
    for (const name of ['message', ...(environment.eventNames ?? [])]) on(name, (wire, cursor) => [{ type: 'event', event: event(wire), cursor }]);
    on('tidewire.gap', (wire) => gaps(wire).map((gap) => ({ type: 'gap', gap })));
    on('tidewire.reconnect', ({ after_ms: afterMs }) => [{ type: 'reconnect', afterMs }]);
  });
});
