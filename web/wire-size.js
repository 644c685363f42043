// Owns: how many bytes things take on the wire, so far as a page can know.
// Must not know: how anything is sent or shown.
//
// Not counted anywhere: TCP, TLS, and what HTTP/2 saves by compressing heads.

const encoder = new TextEncoder();

export function utf8Length(text) {
  return encoder.encode(text).length;
}

/** An HTTP/1.1 head: a first line, `Name: value` lines, an empty line. */
function headLength(first_line, fields) {
  let length = first_line.length + 2 + 2;
  for (const [name, value] of fields) length += name.length + 2 + String(value).length + 2;
  return length;
}

/** Estimated: a page does not see the fields that the browser adds, so they are composed as Chromium sends them. */
export function requestHeadLength(method, url, fields = {}) {
  const sent = {
    Host: location.host,
    Connection: 'keep-alive',
    'User-Agent': navigator.userAgent,
    Accept: '*/*',
    'Sec-Fetch-Site': 'same-origin',
    'Sec-Fetch-Mode': 'cors',
    'Sec-Fetch-Dest': 'empty',
    Pragma: 'no-cache',
    'Cache-Control': 'no-cache',
    Referer: location.href,
    'Accept-Encoding': isSecureContext ? 'gzip, deflate, br, zstd' : 'gzip, deflate',
    'Accept-Language': acceptLanguage(),
    ...clientHints(),
    ...(document.cookie ? { Cookie: document.cookie } : {}),
    ...fields,
  };
  return headLength(`${method} ${url} HTTP/1.1`, Object.entries(sent));
}

function acceptLanguage() {
  return navigator.languages.map((tag, i) => (i === 0 ? tag : `${tag};q=${(1 - i / 10).toFixed(1)}`)).join(',');
}

function clientHints() {
  const data = navigator.userAgentData;
  if (!data) return {};
  return {
    'sec-ch-ua': data.brands.map(({ brand, version }) => `"${brand}";v="${version}"`).join(', '),
    'sec-ch-ua-mobile': '?0',
    'sec-ch-ua-platform': `"${data.platform}"`,
  };
}

/** Exact for HTTP/1.1 and the same origin: there fetch shows every field but Set-Cookie. */
export function responseHeadLength(response) {
  return headLength(`HTTP/1.1 ${response.status} ${response.statusText}`, response.headers);
}

/**
 * The body as it travelled. Content-Length is what was sent even where the body was compressed; without it the
 * browser's own record of this URL tells; without that, what we decoded.
 */
export function responseBodyLength(response, decoded_length) {
  const declared = response.headers.get('content-length');
  if (response.status === 304) return 0;
  if (declared !== null) return Number(declared);
  return performance.getEntriesByName(response.url).at(-1)?.encodedBodySize || decoded_length;
}

// The browser keeps the records of only 250 requests; a full buffer would leave the later ones unmeasured.
performance.addEventListener('resourcetimingbufferfull', () => performance.clearResourceTimings());

/** The head of an SSE answer and its opening blocks, after PROTOCOL.md 2.3: EventSource shows neither. */
export function sseOpeningLength(cursor) {
  const head = headLength('HTTP/1.1 200 OK', [
    ['content-type', 'text/event-stream'],
    ['cache-control', 'no-cache'],
    ['x-accel-buffering', 'no'],
    ['connection', 'close'],
    ['date', 'Mon, 23 Nov 2026 05:14:04 GMT'],
  ]);
  return head + 'retry: 2000\n\n'.length + `id: ${cursor}\n\n`.length;
}

/** One event as PROTOCOL.md 2.3 frames it. */
export function sseEventLength(name, data, id) {
  let length = `id: ${id}\n\n`.length;
  if (name) length += 'event: \n'.length + utf8Length(name);
  for (const line of data.split('\n')) length += 'data: \n'.length + utf8Length(line);
  return length;
}

/** RFC 6455: 2 bytes, 2 or 8 more for a longer payload, 4 more for the mask that a client must use. */
export function webSocketFrameLength(payload_length, { masked = false } = {}) {
  const extended = payload_length < 126 ? 0 : payload_length < 65536 ? 2 : 8;
  return 2 + extended + (masked ? 4 : 0) + payload_length;
}

/** Estimated: neither head of the handshake can be seen from a page. */
export function webSocketHandshakeLength(path, protocol) {
  const sent = requestHeadLength('GET', path, {
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    Origin: location.origin,
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': 'x'.repeat(24),
    'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits',
    'Sec-WebSocket-Protocol': protocol,
  });
  const received = headLength('HTTP/1.1 101 Switching Protocols', [
    ['connection', 'Upgrade'],
    ['upgrade', 'websocket'],
    ['sec-websocket-accept', 'x'.repeat(28)],
    ['sec-websocket-protocol', protocol],
  ]);
  return { sent, received };
}
