// Keeps what it understood of each request, and tells it: the second opinion on where a request ends.

import { createServer } from 'node:http';

const seen = new Map();

const server = createServer((request, response) => {
  if (request.method === 'GET') {
    response.end(JSON.stringify(seen.get(request.url) ?? []));
    return;
  }
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    seen.set(request.url, [...(seen.get(request.url) ?? []), Buffer.concat(pieces).toString('hex')]);
    response.end();
  });
});
// What came whole before the fault is still on its way to the handler.
server.on('clientError', (_, socket) => setTimeout(() => socket.destroy(), 5));
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
