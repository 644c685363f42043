// The `ws` peer: one process, one Set of sockets per channel, as its documentation shows it.
// Usage: node ws.js PORT. POST /pub/CHANNEL publishes; a WebSocket message "+CHANNEL" subscribes.
"use strict";
const http = require("node:http");
const { WebSocketServer } = require("ws");

const channels = new Map();

function members(name) {
  let set = channels.get(name);
  if (!set) channels.set(name, (set = new Set()));
  return set;
}

function publish(name, body) {
  for (const socket of members(name)) socket.send(body, { binary: false });
}

const server = http.createServer((request, response) => {
  if (request.method !== "POST") return response.writeHead(200, { "content-length": 0 }).end();
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    publish(request.url.slice("/pub/".length), Buffer.concat(parts));
    response.writeHead(201, { "content-length": 0 }).end();
  });
});
server.keepAliveTimeout = 0;
server.requestTimeout = 0;

const sockets = new WebSocketServer({
  server,
  perMessageDeflate: { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
});
sockets.on("connection", (socket) => {
  socket.on("message", (message) => {
    const text = message.toString();
    if (text[0] === "+") {
      members(text.slice(1)).add(socket);
      socket.send("ok");
    } else {
      // "CHANNEL DATA": publish over the socket, acknowledged like the HTTP form.
      const space = text.indexOf(" ");
      publish(text.slice(0, space), Buffer.from(text.slice(space + 1)));
      socket.send("published");
    }
  });
  socket.on("close", () => {
    for (const set of channels.values()) set.delete(socket);
  });
});
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
