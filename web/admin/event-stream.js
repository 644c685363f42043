// Owns: reading server-sent events through fetch, which unlike EventSource can send the admin key in a header.
// Must not know: what the events mean, or when to come back.

import { call } from './api.js';

/**
 * Reads a stream until it ends or `signal` aborts. `onEvent` gets {name, data, id}. Returns the milliseconds after
 * which the server wants the client back.
 */
export async function readEvents(path, { last_id = '', token, signal, onOpen = () => {}, onEvent }) {
  const headers = { Accept: 'text/event-stream' };
  if (last_id) headers['Last-Event-ID'] = last_id;
  const response = await call(path, { token, headers, signal });
  onOpen();
  let retry_ms = 2000;
  let id = last_id;
  let name = '';
  let data = [];
  const takeLine = (line) => {
    if (line === '') {
      if (data.length > 0) onEvent({ name: name || 'message', data: data.join('\n'), id });
      else if (id) onEvent({ name: 'position', data: '', id });
      [name, data] = ['', []];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') data.push(value);
    else if (field === 'event') name = value;
    else if (field === 'id') id = value;
    else if (field === 'retry') retry_ms = Number(value) || retry_ms;
  };
  let rest = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    lines.forEach((line) => takeLine(line.replace(/\r$/, '')));
  }
  return retry_ms;
}
