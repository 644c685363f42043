// Being present in a channel, and seeing who is: an entry of its own, for those who want it. On a WebSocket one is
// present for as long as that is open; over all else, by requests that are repeated in time. Must not know how a
// client connects.
import type { Tidewire } from './client';
import type { Subscription } from './subscription';
import type { TidewireError } from './types';

export interface Member {
  member: string;
  /** When the member came. */
  since: string;
  /** What the member shows of itself. */
  data: unknown;
}

export interface PresenceOptions {
  /** What others see: JSON, up to 4 KiB by default. */
  data?: unknown;
  /** Who enters. Only where no authentication is configured, or for the application itself. */
  member?: string;
  /** The server said no, and will again: there is nobody present by this any more. */
  onError?: (error: TidewireError) => void;
}

export interface Presence {
  /** Shows something else from now on. */
  update(data: unknown): void;
  /** Resolves once the others know, or cannot be told; then they will see it some time later. */
  leave(): Promise<void>;
}

/** Statuses after which the same request can never succeed. */
const FINAL = new Set([400, 401, 403, 404, 413]);
/** A part of the time for which the server keeps a member, so that two requests may fail. */
const RENEW_AFTER = 1 / 3;
/** By then the socket's word has long arrived. */
const RELEASE_AFTER_MS = 2_000;
const RETRY_MS = 500;
const RETRY_MAX_MS = 10_000;
const REQUEST_TIMEOUT_MS = 10_000;

/** Enters the channel, and stays until `leave()` or the client is closed. */
export function enter(client: Tidewire, channel: string, options: PresenceOptions = {}): Presence {
  const instance = crypto.randomUUID();
  const named = options.member === undefined ? {} : { member: options.member };
  const path = `/v1/channels/${encodeURIComponent(channel)}/presence?${new URLSearchParams({ instance, ...named })}`;
  let data = options.data ?? null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let retryMs = RETRY_MS;
  let [left, asked] = [false, false];
  /** Two requests at once could arrive in another order: the next waits for the one before. */
  let last: Promise<unknown> = Promise.resolve();

  const fail = (error: TidewireError): void => {
    if (left) return;
    stop();
    options.onError?.(error);
  };
  const renew = async (): Promise<void> => {
    // Without a connection nobody is there; with the next one it is told.
    if (left || client.state === 'connecting' || client.state === 'waiting') return;
    if (client.send({ type: 'enter', channel, data, ...named, id: instance })) {
      // Held by the socket from now on. What was asked for by requests would outlast it.
      if (asked) timer = setTimeout(release, RELEASE_AFTER_MS);
      return;
    }
    let nextMs: number;
    try {
      asked = true;
      const headers = { 'Content-Type': 'application/json' };
      const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
      const answer = await client.request(path, { method: 'POST', body: JSON.stringify(data), headers, signal });
      nextMs = ((await answer.json()) as { expires_in_ms: number }).expires_in_ms * RENEW_AFTER;
      retryMs = RETRY_MS;
    } catch (caught) {
      const error = caught as TidewireError;
      if (FINAL.has(error.status)) return fail(error);
      nextMs = Math.max(error.retryAfterMs ?? 0, Math.random() * retryMs);
      retryMs = Math.min(RETRY_MAX_MS, retryMs * 2);
    }
    if (left) return;
    clearTimeout(timer);
    timer = setTimeout(again, nextMs);
  };
  const again = (): void => {
    clearTimeout(timer);
    last = last.then(renew);
  };
  const forget = (init: RequestInit): Promise<unknown> => client.request(path, { method: 'DELETE', ...init }).catch(() => {});
  const release = (): void => {
    asked = false;
    last = last.then(() => forget({ signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) }));
  };
  // The page may be gone before there is an answer, or come back.
  const pageHidden = () => void (asked && forget({ keepalive: true }));
  const unwatch = client.watch((state, id, error) => {
    if (id === instance) fail(error!);
    else if (state === 'open') again();
    else if (state === 'closed' || state === 'failed') void leave();
  });
  const stop = (): void => {
    left = true;
    clearTimeout(timer);
    unwatch();
    globalThis.removeEventListener?.('pagehide', pageHidden);
    globalThis.removeEventListener?.('pageshow', again);
  };
  const leave = async (): Promise<void> => {
    if (left) return;
    stop();
    client.send({ type: 'leave', channel });
    await last;
    if (asked) await forget({ signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
  };
  globalThis.addEventListener?.('pagehide', pageHidden);
  globalThis.addEventListener?.('pageshow', again);
  again();
  return {
    update(next) {
      data = next ?? null;
      again();
    },
    leave,
  };
}

/** Calls back with all who are present, at first and whenever that changes. */
export function watchMembers(client: Tidewire, channel: string, onMembers: (members: ReadonlyMap<string, Member>) => void): Subscription {
  const members = new Map<string, Member>();
  return client.channel(`tidewire.presence:${channel}`).subscribe({
    snapshot: true,
    onSnapshot: ({ state }) => {
      members.clear();
      for (const { key, data } of (state ?? []) as { key: string; data: Member }[]) members.set(key, data);
      onMembers(members);
    },
    onEvent: ({ key, event, data }) => {
      if (event === 'leave') members.delete(key!);
      else members.set(key!, data as Member);
      onMembers(members);
    },
  });
}
