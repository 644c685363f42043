"""HTTP/2: the same as over HTTP/1.1, many streams on one connection, WebSockets (RFC 8441), slow streams, floods.
Must not need TLS; `test_tls` has that."""

import json
import socket as sockets
import struct
import time

import pytest

from conftest import Server
from http2 import Client
from test_access import ADMIN_KEY, SECRET, ask, token

CONFIG = """
h2c = true
origins = ["https://app.example.com"]
auth.cookie = "session"
rights.subscribe = "anyone"
rights.history = "anyone"
rights.publish = "anyone"
limits.streams_per_connection = 100
limits.event_bytes = 200000
[[auth.issuers]]
secret_file = "secret"
[[channels]]
pattern = "closed:*"
rights.subscribe = "authenticated"
rights.history = "authenticated"
[[channels]]
pattern = "deep"
history.bytes = 100000000
"""
EVENT_STREAM = ("accept", "text/event-stream")


@pytest.fixture
def server(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    running = Server(tmp_path, CONFIG)
    yield running
    running.stop()


@pytest.fixture
def client(server):
    running = Client(server.host, server.port)
    yield running
    running.close()


def publish(client, channel, data, *fields):
    status, _, body = client.ask("POST", f"/v1/channels/{channel}/events", *fields, body=data)
    return status, json.loads(body)


def connections(server):
    """How many there are by /metrics, the one that asks left out."""
    text = ask(server, "GET", "/metrics")[2]
    text = text if isinstance(text, str) else text.decode()
    counts = [int(line.split()[1]) for line in text.splitlines() if line.startswith("tidewire_connections{")]
    return sum(counts) - 1


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def frame(payload, opcode=1):
    """A masked WebSocket frame of less than 64 KiB."""
    length = len(payload)
    head = bytes([0x80 | opcode]) + (bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack("!H", length))
    return head + b"\0\0\0\0" + payload


def frames(data):
    """The payloads of unmasked frames."""
    found = []
    while data:
        length, at = data[1], 2
        if length == 126:
            length, at = struct.unpack("!H", data[2:4])[0], 4
        found.append((data[0] & 15, data[at : at + length]))
        data = data[at + length :]
    return found


def test_requests_are_what_they_are_over_http_1(client, server):
    status, first = publish(client, "a", b'{"n":1}', ("content-type", "application/json"), ("tidewire-event", "tick"))
    assert status == 201 and not first["duplicate"]
    length = ("content-length", "5")
    assert publish(client, "a", b"hello", length, ("idempotency-key", "k"))[0] == 201
    assert publish(client, "a", b"hello", ("idempotency-key", "k"))[0] == 200
    status, head, body = client.ask("GET", "/v1/channels/a/events")
    events = json.loads(body)["events"]
    assert (status, [event["data"] for event in events], events[0]["event"]) == (200, [{"n": 1}, "hello"], "tick")
    assert not {"connection", "transfer-encoding", "keep-alive"} & set(head)
    assert client.ask("GET", "/v1/channels/a/events", ("if-none-match", head["etag"]))[0] == 304
    status, head, body = client.ask("HEAD", "/healthz")
    assert (status, body) == (200, b"") and int(head["content-length"]) > 0
    assert client.ask("GET", "/nothing")[0] == 404
    assert client.ask("PUT", "/v1/channels/a/events")[0] == 405
    assert client.ask("GET", "/v1/channels/a/events", authority="b:1")[0] == 200
    status, head, _ = client.ask("OPTIONS", "/v1/channels/a/events", ("origin", "https://app.example.com"),
                                 ("access-control-request-method", "POST"))
    assert (status, head["access-control-allow-origin"]) == (204, "https://app.example.com")
    assert client.ask("GET", "/v1/channels/a/events", ("origin", "https://evil.example"))[0] == 403
    assert ask(server, "GET", "/v1/channels/a/events")[2]["events"] == events


def test_a_long_poll_is_held_and_answered(client):
    held = client.open("GET", "/v1/channels/a/events?wait=20")
    assert publish(client, "a", b"now")[0] == 201
    client.until(lambda: client.streams[held]["ended"])
    assert json.loads(client.streams[held]["body"])["events"][0]["data"] == "now"


def test_credentials_come_as_over_http_1(client):
    path = "/v1/channels/closed:a/events"
    assert client.ask("GET", path)[0] == 401
    assert client.ask("GET", path, ("authorization", f"Bearer {token()}"))[0] == 200
    crumbs = [("cookie", "a=b"), ("cookie", f"session={token()}"), ("cookie", "c=d")]
    assert client.ask("GET", path, *crumbs, ("sec-fetch-site", "same-origin"))[0] == 200


def test_what_is_too_large_is_refused_in_words(client):
    status, body = publish(client, "a", b"x" * 1_000_000, ("content-length", "1000000"))
    assert (status, body["code"]) == (413, "payload_too_large")
    assert publish(client, "a", b"x" * 1_000_000)[0] == 413
    assert publish(client, "a", b"x" * 190_000)[0] == 201, "the connection goes on"
    assert client.ask("GET", "/" + "x" * 20_000)[0] in (0, 431)
    assert client.ask("GET", "/healthz")[0] == 200


def test_many_streams_on_one_connection_get_all_in_order(client, server):
    streams = [client.open("GET", "/v1/channels/a/events", EVENT_STREAM) for _ in range(50)]
    client.until(lambda: all(b"id:" in client.streams[number]["body"] for number in streams))
    assert connections(server) == 51
    publisher = Client(server.host, server.port)
    for number in range(100):
        assert publish(publisher, "a", f"event {number}".encode())[0] == 201
    client.until(lambda: all(b"event 99\n" in client.streams[number]["body"] for number in streams))
    expected = [f"event {number}" for number in range(100)]
    for number in streams:
        lines = client.streams[number]["body"].decode().splitlines()
        assert [line[6:] for line in lines if line.startswith("data: ")] == expected
    publisher.close()
    for number in streams[:25]:
        client.h2.reset_stream(number)
    client.flush()
    wait_for(lambda: connections(server) == 26)
    client.close()
    wait_for(lambda: connections(server) == 0)


def test_a_slow_stream_is_a_lagging_cursor(client, server):
    """It holds up nobody on the same connection, costs no memory, and gets everything once it reads."""
    slow = client.open("GET", "/v1/channels/deep/events", EVENT_STREAM)
    quick = client.open("GET", "/v1/channels/deep/events", EVENT_STREAM)
    client.until(lambda: all(b"id:" in client.streams[number]["body"] for number in (slow, quick)))
    client.held.add(slow)
    has_all = lambda number: b"data: 299 " in client.streams[number]["body"][-200_000:]
    publisher = Client(server.host, server.port)
    before = server.resident_bytes()
    for number in range(300):
        assert publish(publisher, "deep", f"{number} ".encode() + b"x" * 100_000)[0] == 201
        # The slow one's data counts against the window of the connection, as it does in a browser; only its own
        # window stays shut.
        client.read(0.001)
        client.h2.increment_flow_control_window(60_000)
        client.flush()
    client.until(lambda: has_all(quick), 20)
    held = len(client.streams[slow]["body"])
    assert held < 100_000, "its window is shut"
    assert server.resident_bytes() - before < 80_000_000, "30 MB of data and their frames are in the log, and nothing else"
    client.held.clear()
    client.h2.increment_flow_control_window(2**30, slow)
    client.flush()
    client.until(lambda: has_all(slow), 20)
    lines = [line for line in client.streams[slow]["body"].split(b"\n") if line.startswith(b"data: ")]
    assert [int(line.split()[1]) for line in lines] == list(range(300))
    publisher.close()


def test_a_websocket_over_a_stream(client, server):
    fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "tidewire.v1"), ("origin", "https://app.example.com")]
    number = client.open("CONNECT", "/v1/ws", *fields, protocol="websocket", end=False)
    socket = client.streams[number]
    client.until(lambda: socket["head"] is not None)
    assert (socket["head"][":status"], socket["head"]["sec-websocket-protocol"]) == ("200", "tidewire.v1")
    say = lambda message: client.send(number, frame(json.dumps(message).encode()))
    say({"type": "subscribe", "channel": "a", "id": 1})
    say({"type": "publish", "channel": "a", "data": {"n": 1}, "id": 2})
    told = lambda: [json.loads(payload) for opcode, payload in frames(socket["body"]) if opcode == 1]
    client.until(lambda: len(told()) == 3)
    assert {message["type"] for message in told()} == {"subscribed", "published", "event"}
    client.send(number, frame(b"", 9))
    client.until(lambda: frames(socket["body"])[-1][0] == 10)
    client.send(number, frame(struct.pack("!H", 1000), 8))
    client.until(lambda: socket["ended"])
    assert frames(socket["body"])[-1] == (8, struct.pack("!H", 1000))
    client.h2.end_stream(number)
    client.flush()
    wait_for(lambda: connections(server) == 1)

    cut = client.open("CONNECT", "/v1/channels/a/ws", ("sec-websocket-version", "13"), protocol="websocket", end=False)
    client.until(lambda: client.streams[cut]["head"] is not None)
    client.h2.end_stream(cut)
    client.flush()
    wait_for(lambda: connections(server) == 1)
    kept_out = client.ask("CONNECT", "/v1/ws", ("sec-websocket-version", "13"), ("origin", "https://evil.example"), protocol="websocket")
    assert kept_out[0] == 403
    assert client.ask("CONNECT", "/v1/ws", ("sec-websocket-version", "12"), protocol="websocket")[0] == 426
    assert client.ask("CONNECT", "/x", protocol="other")[0] == 400
    assert client.ask("GET", "/healthz")[0] == 200


def test_a_server_that_stops_tells_every_stream(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    server = Server(tmp_path, CONFIG)
    client = Client(server.host, server.port)
    stream = client.open("GET", "/v1/channels/a/events", EVENT_STREAM)
    held = client.open("GET", "/v1/channels/a/events?wait=50")
    client.until(lambda: b"id:" in client.streams[stream]["body"])
    server.process.terminate()
    client.until(lambda: client.ended)
    assert b"event: tidewire.reconnect" in client.streams[stream]["body"] and client.streams[stream]["ended"]
    assert client.streams[held]["head"][":status"] in ("200", "503")
    assert client.goaway == 0
    client.close()
    assert server.process.wait(10) == 0


def test_what_cannot_be_said_in_one_way_is_refused(server):
    client = Client(server.host, server.port, strict=False)
    path = "/v1/channels/a/events"
    for number, fields in enumerate([
        [("host", "other")], [("transfer-encoding", "chunked")], [("connection", "close")], [("upgrade", "h2c")],
        [("content-length", "5"), ("content-length", "6")], [("x", "a\r\nX-Y: b")], [("x\r\ny", "a")], [("X-Upper", "a")],
        [("content-length", "nine")], [("x", "a\0b")], [(" x", "a")],
    ]):
        status, _, body = client.ask("POST", path, *fields, body=b"smuggled")
        assert status in (0, 400), (fields, status, body)
        if client.goaway is not None or client.ended:
            client = Client(server.host, server.port, strict=False)
    for path in ["/v1/channels/a/events HTTP/1.1\r\nX: y", "v1/channels/a/events", "", "/v1/channels/a/events\0", "*"]:
        status, _, _ = client.ask("GET", path)
        assert status in (0, 400, 404), path
        if client.goaway is not None or client.ended:
            client = Client(server.host, server.port, strict=False)
    assert ask(server, "GET", "/v1/channels/a/events")[2]["events"] == []
    client.close()


def test_floods_cost_their_sender(server):
    """Streams that are opened and reset at once, pings, and heads without end."""
    resets = Client(server.host, server.port)
    try:
        for _ in range(5000):
            stream = resets.open("GET", "/v1/channels/a/events", EVENT_STREAM)
            resets.h2.reset_stream(stream)
            resets.flush()
    except OSError:
        pass
    resets.until(lambda: resets.goaway is not None or resets.ended or connections(server) <= 1)
    resets.close()

    pings = Client(server.host, server.port)
    pings.socket.settimeout(2)
    before = server.resident_bytes()
    try:
        for _ in range(200):
            pings.socket.sendall((struct.pack("!I", 8)[1:] + b"\6\0\0\0\0\0" + b"12345678") * 2000)
    except OSError:
        pass
    assert server.resident_bytes() - before < 20_000_000
    pings.close()

    heads = sockets.create_connection((server.host, server.port), timeout=5)
    heads.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\0\0\0\0\1\x82")
    block = b"\x40\x01a\x7f\xe1\x3e" + b"b" * 8000
    received = b""
    try:
        for _ in range(100):
            heads.sendall(struct.pack("!I", len(block))[1:] + b"\x09\0\0\0\0\1" + block)
        while piece := heads.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    assert b"\x07\0\0\0\0\0" in received, "it is told to go away"
    heads.close()
    wait_for(lambda: connections(server) == 0)
    other = Client(server.host, server.port)
    assert other.ask("GET", "/healthz")[0] == 200
    other.close()


def test_more_streams_than_agreed_on_are_refused(server):
    client = Client(server.host, server.port)
    client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 100)
    client.h2.remote_settings[3] = 1000
    client.h2.remote_settings.acknowledge()
    streams = [client.open("GET", "/v1/channels/a/events", EVENT_STREAM) for _ in range(120)]
    client.until(lambda: sum(client.streams[number]["reset"] is not None for number in streams) == 20)
    assert {client.streams[number]["reset"] for number in streams} == {None, 7}, "REFUSED_STREAM: try elsewhere"
    client.close()


def test_http_2_is_spoken_only_where_somebody_said_so(tmp_path):
    server = Server(tmp_path, "")
    connection = sockets.create_connection((server.host, server.port), timeout=5)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    received = b""
    while piece := connection.recv(65536):
        received += piece
    connection.close()
    assert received.startswith(b"HTTP/1.1 505 ")
    server.stop()


def test_a_connection_that_carries_nothing_ends_and_one_that_is_silent_too(tmp_path):
    server = Server(tmp_path, "h2c = true\nlimits.heartbeat_ms = 200\nlimits.idle_timeout_ms = 600\n")
    idle = Client(server.host, server.port)
    begun = time.monotonic()
    idle.until(lambda: idle.ended, 5)
    assert idle.goaway == 0 and time.monotonic() - begun > 0.5
    busy = Client(server.host, server.port)
    stream = busy.open("GET", "/v1/channels/a/events", EVENT_STREAM)
    busy.until(lambda: busy.streams[stream]["body"].count(b"\n:") >= 5, 5)
    # It does not answer pings any more.
    wait_for(lambda: connections(server) == 0, 5)
    busy.close()
    server.stop()
