// The socket.io peer: rooms as channels, WebSocket transport only, default adapter.
// Usage: node socketio.js PORT. POST /pub/CHANNEL publishes; the event "subscribe" joins a room.
"use strict";
const http = require("node:http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => {
  if (request.method !== "POST") return response.writeHead(200, { "content-length": 0 }).end();
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const room = request.url.slice("/pub/".length);
    io.to(room).emit("event", JSON.parse(Buffer.concat(parts).toString()));
    response.writeHead(201, { "content-length": 0 }).end();
  });
});
server.keepAliveTimeout = 0;
server.requestTimeout = 0;

const io = new Server(server, {
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
});
io.on("connection", (socket) => {
  socket.on("subscribe", (room, done) => {
    socket.join(room);
    done("ok");
  });
  socket.on("publish", (room, data, done) => {
    io.to(room).emit("event", data);
    done("published");
  });
});
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
