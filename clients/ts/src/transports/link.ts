// What every transport is: it opens, frames and closes. Must not know policy: no retries, no backoff, no timeouts of
// its own but for single requests. Also the one way in which requests are made and refusals read.
import { TidewireError } from '../types';
import type { LinkMessage, Want } from '../types';

/** A value, or what gives one when it is wanted. */
export type Provider = string | (() => string | Promise<string>);

/** The part of `WebSocket` that is used; the one of the `ws` package fits. */
export interface SocketLike {
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number): void;
}

export interface Environment {
  url: string;
  fetch: typeof fetch;
  WebSocket: (new (url: string, protocols: string[]) => SocketLike) | undefined;
  EventSource: typeof EventSource | undefined;
  /** Names that an `EventSource` is to listen for: it drops events of any other. */
  eventNames: readonly string[] | undefined;
  token: Provider | undefined;
  ticket: Provider | undefined;
  credentials: RequestCredentials | undefined;
}

export interface Sink { open(): void; message(message: LinkMessage): void }
export interface Link { send(message: Record<string, unknown>): void; close(): void }
export type OpenLink = (environment: Environment, wants: readonly Want[], sink: Sink) => Link;

/** A provider is asked each time: it alone knows whether what it gave last is still good. */
export async function ask(provider: Provider | undefined): Promise<string | undefined> {
  return typeof provider === 'function' ? provider() : provider;
}

/** An address for what cannot send headers. */
export async function ticketed({ url, ticket }: Environment, path: string): Promise<URL> {
  const whole = new URL(url + path);
  if (ticket) whole.searchParams.set('ticket', (await ask(ticket)) ?? '');
  return whole;
}

/** A request with credentials, whose answer is a success. Tickets are for `GET` only, as the protocol has it. */
export async function request(environment: Environment, path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = await ask(environment.token);
  if (token) headers.set('Authorization', `Bearer ${token}`);
  const url = token || init.method ? environment.url + path : await ticketed(environment, path);
  const credentials = environment.credentials;
  const response = await environment.fetch(url, { ...init, headers, cache: 'no-store', ...(credentials && { credentials }) });
  if (response.ok) return response;
  const { status } = response;
  // By RFC 9457 where the server wrote it, not where something on the way did.
  const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string };
  const retryAfterMs = Number(response.headers.get('Retry-After') ?? NaN) * 1_000;
  throw new TidewireError(problem.code ?? `http_${status}`, problem.detail ?? `the server answered ${status}`, status, retryAfterMs >= 0 ? retryAfterMs : undefined);
}

/** One answer as JSON. How long it may take is the session's to say: a silent link is closed. */
export async function get<Answer>(environment: Environment, path: string, signal: AbortSignal): Promise<Answer> {
  return (await request(environment, path, { signal })).json() as Promise<Answer>;
}

/** Anything but an answer of the server is a path that does not work. */
export function asError(error: unknown): TidewireError {
  return error instanceof TidewireError ? error : new TidewireError('unreachable', String(error));
}
