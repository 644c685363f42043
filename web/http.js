// Owns: one HTTP request of this page: made, counted, its errors turned into one kind of exception.
// Must not know: what is asked for, or when to ask again.

import { requestHeadLength, responseBodyLength, responseHeadLength, utf8Length } from './wire-size.js';

/** An answer that is not what was asked for. `detail` is meant for people. */
export class ProblemError extends Error {
  constructor(status, code, detail, retry_after_ms) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retry_after_ms = retry_after_ms;
    // 408 and 429 are a matter of time, as all of 5xx are; any other 4xx would get the same answer again.
    this.is_final = status >= 400 && status < 500 && status !== 408 && status !== 429;
  }
}

/**
 * Fetches `path` and reads the whole answer as JSON (null where there is no body). Throws ProblemError for a refusal
 * and TypeError where there is no network.
 *
 * `cache: 'no-store'`, for three reasons: the question is what is new, so the server must be asked; each URL holds
 * another cursor and is never asked for again, so storing it would only fill the browser's cache; and two tabs on
 * one URL would wait for each other at the cache's lock, a long poll for its whole length. Who wants a 304 sends
 * If-None-Match and, the cache being out of the way, sees the 304 too.
 */
export async function request(path, { method = 'GET', headers = {}, body, signal, onTraffic = () => {} } = {}) {
  const body_length = body === undefined ? 0 : utf8Length(body);
  const more = body === undefined ? {} : { Origin: location.origin, 'Content-Length': body_length };
  onTraffic({ requests: 1, sent: requestHeadLength(method, path, { ...headers, ...more }) + body_length });

  const response = await fetch(path, { method, headers, body, signal, cache: 'no-store' });
  const text = await response.text();
  onTraffic({ received: responseHeadLength(response) + responseBodyLength(response, utf8Length(text)) });

  if (response.status !== 304 && !response.ok) throw problemOf(response, text);
  return { status: response.status, headers: response.headers, json: text === '' ? null : parse(response, text) };
}

function parse(response, text) {
  try {
    return JSON.parse(text);
  } catch {
    // Something between us and the server answered in its place; that passes, so it is not final.
    throw new ProblemError(502, 'not_json', `An answer with status ${response.status} was not JSON.`);
  }
}

function problemOf(response, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // A proxy's error page. The status has to do.
  }
  const bare = `The server answered ${response.status} ${response.statusText}`.trim();
  const detail = problem.detail || problem.title || bare;
  const retry_after_s = Number(response.headers.get('retry-after'));
  return new ProblemError(response.status, problem.code, detail, retry_after_s > 0 ? retry_after_s * 1000 : 0);
}
