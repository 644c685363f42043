"""A server with room for twenty connections."""

import socket
import time

CONFIG = "[limits]\nconnections = 20\n"
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


def test_one_too_many_is_told_to_come_back_and_then_has_room(server):
    held = [socket.create_connection((server.host, server.port), timeout=5) for _ in range(20)]
    for connection in held:
        connection.sendall(REQUEST)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    with socket.create_connection((server.host, server.port), timeout=5) as late:
        late.sendall(REQUEST)
        answer = late.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After: " in answer
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with socket.create_connection((server.host, server.port), timeout=5) as again:
            again.sendall(REQUEST)
            if again.recv(4096).startswith(b"HTTP/1.1 200"):
                return
    raise AssertionError("there is no room although all have gone")


def test_a_thousand_that_come_and_go_leave_nothing_behind(server):
    for _ in range(1000):
        socket.create_connection((server.host, server.port), timeout=5).close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with socket.create_connection((server.host, server.port), timeout=5) as connection:
            connection.sendall(REQUEST)
            if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                return
    raise AssertionError("connections leak")
