"""An HTTP/2 client for tests, over the sans-I/O library of another house. Must not know Tidewire."""

import socket
import ssl
import time

import h2.config
import h2.connection
import h2.events
import h2.settings


class Client:
    """A connection. What has come lies in `streams`, by number: head, body, and how it ended."""

    def __init__(self, host, port, context=None, window=None, strict=True):
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            assert self.socket.selected_alpn_protocol() == "h2"
        settings = {} if strict else {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", **settings))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.streams, self.goaway, self.ended, self.held, self.unread = {}, None, False, set(), b""
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def open(self, method, path, *fields, body=None, end=True, authority="localhost", **pseudo):
        """Sends a request; gives its stream's number."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        head += [(f":{name}", value) for name, value in pseudo.items()] + list(fields)
        self.streams[stream] = {"head": None, "body": bytearray(), "ended": False, "reset": None}
        self.h2.send_headers(stream, head, end_stream=end and body is None)
        self.flush()
        if body is not None:
            self.send(stream, body, end)
        return stream

    def send(self, stream, body, end=False):
        """Sends data as the windows allow, and reads meanwhile."""
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
            if room == 0 or self.streams[stream]["reset"] is not None or self.streams[stream]["ended"]:
                if self.streams[stream]["ended"] or not self.read():
                    return
                continue
            self.h2.send_data(stream, body[:room])
            body = body[room:]
            self.flush()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def read(self, timeout=10):
        """Reads once. False at the end, or when nothing came in time."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(65536)
        except (TimeoutError, ssl.SSLWantReadError):
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = True
            return False
        self.unread += data
        # One frame at a time, so that what a frame changes holds for the next.
        while len(self.unread) >= 9 and len(self.unread) >= (size := 9 + int.from_bytes(self.unread[:3], "big")):
            frame, self.unread = self.unread[:size], self.unread[size:]
            for event in self.h2.receive_data(frame):
                self.take(event)
        self.flush()
        return True

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.ResponseReceived):
            stream["head"] = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream["body"] += event.data
            if event.stream_id not in self.held:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream["ended"] = True
        elif isinstance(event, h2.events.StreamReset):
            stream["reset"] = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event.error_code
            # Streams go on until they end (RFC 9113 section 6.8); the library takes it for the end.
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def until(self, condition, seconds=10):
        """Reads until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, (self.streams, self.goaway, self.ended)
            if not self.read(left):
                assert condition(), (self.streams, self.goaway, self.ended)
                return

    def ask(self, method, path, *fields, **more):
        """Sends a request, and gives status, head and body of the answer."""
        number = self.open(method, path, *fields, **more)
        stream = self.streams[number]
        over = lambda: self.goaway is not None or self.ended
        self.until(lambda: stream["ended"] or stream["reset"] is not None or over())
        head = stream["head"] or {}
        return int(head.get(":status", 0)), head, bytes(stream["body"])

    def close(self):
        self.socket.close()
