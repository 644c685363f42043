// The browser's own EventSource, for pages that have nothing but a cookie or a ticket. It hides heartbeats, positions
// without an event, and why it failed; so the position is asked for first, and its own reconnecting is never used.
import { get, ticketed } from './link';
import type { OpenLink } from './link';
import { fromStream, give, open } from './requests';
import type { Page } from './wire';

export const openEventSource: OpenLink = (environment, wants, sink) => open(environment, wants, sink, async (_, query, guarded, signal) => {
  const word = query.get('since') ?? 'latest';
  if (word === 'latest' || word === 'earliest') {
    query.set('since', word);
    const page = await get<Page>(environment, `/v1/events?${query}&wait=0&limit=1000`, signal);
    give(page, guarded);
    query.set('since', page.cursor);
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
    for (const name of ['message', 'tidewire.gap', 'tidewire.reconnect', ...(environment.eventNames ?? [])]) {
      source.addEventListener(name, ({ data, lastEventId }: MessageEvent) => {
        try {
          fromStream(name, JSON.parse(data), lastEventId).forEach(guarded.message);
        } catch (error) {
          source.close();
          reject(error);
        }
      });
    }
  });
});
