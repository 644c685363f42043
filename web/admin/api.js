// Owns: requests with the admin key, and where that is kept: in this tab only, and in no URL.
// Must not know: what is asked.

const PLACE = 'tidewire-admin-key';

/** An answer that is not what was asked for. `message` is meant for people. */
export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
    this.is_about_key = status === 401 || (status === 403 && code === 'forbidden');
  }
}

export const key = {
  get: () => sessionStorage.getItem(PLACE),
  set: (value) => sessionStorage.setItem(PLACE, value),
  forget: () => sessionStorage.removeItem(PLACE),
};

/** `fetch` with the admin key, or with another token. Throws Refused, or TypeError where there is no network. */
export async function call(path, { token = key.get(), headers = {}, ...options } = {}) {
  const response = await fetch(path, {
    cache: 'no-store', credentials: 'omit', redirect: 'error', ...options, headers: { ...headers, Authorization: `Bearer ${token}` },
  });
  if (!response.ok && response.status !== 304) throw await refusal(response);
  return response;
}

/** The same, for an answer in JSON; null where there is none. */
export async function ask(path, options) {
  const text = await (await call(path, options)).text();
  return text === '' ? null : JSON.parse(text);
}

/** A field's value as `fetch` takes it: the bytes of UTF-8, each as a character. */
export function fieldValue(text) {
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');
}

async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's page. The status has to do.
  }
  return new Refused(response.status, problem.code, problem.detail ?? `The server answered ${response.status}.`);
}
