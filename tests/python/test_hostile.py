"""What nobody should send, byte by byte. Each test ends with a healthy client being served.

Random tests print their seed; TIDEWIRE_SEED repeats one.
"""

import json
import os
import random
import socket
import struct
import time
import urllib.request
import zlib

import pytest

from conftest import Server

CONFIG = """
[limits]
head_timeout_ms = 700
body_timeout_ms = 700
idle_timeout_ms = 1500
heartbeat_ms = 400
close_timeout_ms = 1000
"""
HOST = "Host: a\r\n"


@pytest.fixture(autouse=True)
def healthy_afterwards(server):
    yield
    base = f"http://{server.address}/v1/channels/healthy/events"
    with urllib.request.urlopen(urllib.request.Request(base, b"1", method="POST"), timeout=5) as answer:
        written = json.load(answer)["id"]
    with urllib.request.urlopen(f"{base}?limit=1000", timeout=5) as answer:
        assert any(event["id"] == written for event in json.load(answer)["events"])


def connect(server):
    return socket.create_connection((server.host, server.port), timeout=5)


def read_to_end(connection, deadline=6):
    received, end = b"", time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece
    raise AssertionError(f"the connection stays open after {received[-300:]!r}")


def exchange(server, data):
    with connect(server) as connection:
        connection.sendall(data)
        return read_to_end(connection)


def problem(answer):
    """The status and code of a refusal, which must be a whole and orderly one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert "Content-Type: application/problem+json" in lines, answer
    content = json.loads(body)
    assert set(content) == {"type", "title", "status", "code", "detail"} and content["detail"]
    assert content["status"] == int(lines[0].split()[1])
    return content["status"], content["code"]


def get(path="/healthz", fields="", method="GET", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\n{HOST}{fields}Connection: close\r\n\r\n".encode()


def post(fields, body=b"", path="/v1/channels/x/events"):
    return f"POST {path} HTTP/1.1\r\n{HOST}{fields}\r\n".encode() + body


BROKEN = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_request"),
    "two hosts": (get(fields="Host: b\r\n"), 400, "invalid_request"),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "invalid_request"),
    "folded header": (get(fields="X: a\r\n b\r\n"), 400, "invalid_request"),
    "space before the colon": (get(fields="X : a\r\n"), 400, "invalid_request"),
    "NUL in a header": (get(fields="X: a\0b\r\n"), 400, "invalid_request"),
    "no origin form": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 60, 400, "invalid_request"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505, "http_version"),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http_version"),
    "large head": (get(fields="X: " + "y" * 20_000 + "\r\n"), 431, "headers_too_large"),
    "endless request line": (b"GET /" + b"a" * 20_000, 431, "headers_too_large"),
    "many fields": (get(fields="X: y\r\n" * 70), 431, "headers_too_large"),
    "length and chunks": (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"abc"), 400, "invalid_request"),
    "two lengths": (post("Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"), 400, "invalid_request"),
    "signed length": (post("Content-Length: +3\r\n", b"abc"), 400, "invalid_request"),
    "other coding": (post("Transfer-Encoding: gzip, chunked\r\n", b""), 501, "not_implemented"),
    "broken chunk": (post("Transfer-Encoding: chunked\r\n", b"zz\r\n"), 400, "invalid_request"),
    "endless chunk size": (post("Transfer-Encoding: chunked\r\n", b"0" * 400), 400, "invalid_request"),
    "large by its word": (post("Content-Length: 99999999999\r\n"), 413, "payload_too_large"),
    "large chunk": (post("Transfer-Encoding: chunked\r\n", b"ffffffff\r\n"), 413, "payload_too_large"),
    "unknown expectation": (post("Expect: tea\r\nContent-Length: 1\r\n", b"1"), 400, "invalid_request"),
    "broken escape": (get("/v1/channels/%zz"), 400, "invalid_request"),
    "escaped slash": (get("/v1/channels/a%2Fb"), 400, "invalid_channel"),
    "long channel": (get("/v1/channels/" + "x" * 201), 400, "invalid_channel"),
    "method": (get(method="BREW"), 405, "method_not_allowed"),
    "JSON": (post("Content-Type: application/json\r\nContent-Length: 1\r\nConnection: close\r\n", b"{"), 400, "invalid_json"),
    "text": (post("Content-Type: text/plain\r\nContent-Length: 1\r\nConnection: close\r\n", b"\xff"), 400, "invalid_utf8"),
    "charset": (
        post("Content-Type: text/plain; charset=utf-16\r\nContent-Length: 1\r\nConnection: close\r\n", b"x"),
        415,
        "unsupported_media_type",
    ),
    "old WebSocket": (
        get("/v1/ws", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"), 426, "upgrade_required"
    ),
    "WebSocket key": (
        get("/v1/ws", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"),
        400,
        "invalid_request",
    ),
    "deep JSON": (
        post("Content-Type: application/json\r\nContent-Length: 200000\r\nConnection: close\r\n", b"[" * 200_000),
        400,
        "invalid_json",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_request_is_told_what_is_wrong(server, name):
    data, status, code = BROKEN[name]
    assert problem(exchange(server, data)) == (status, code)


def test_a_refusal_reaches_a_client_that_is_still_sending(server):
    with connect(server) as connection:
        connection.sendall(post("Content-Length: 5000000\r\n"))
        try:
            for _ in range(50):
                connection.sendall(b"x" * 100_000)
        except OSError:
            pass
        assert problem(read_to_end(connection)) == (413, "payload_too_large")


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX:", post("Content-Length: 900\r\n", b"ab")])
def test_a_request_that_dribbles_ends_in_time(server, begin):
    with connect(server) as connection:
        connection.sendall(begin)
        started = time.monotonic()
        connection.settimeout(0.1)
        received = b""
        while time.monotonic() - started < 5:
            try:
                connection.send(b"z")
                piece = connection.recv(4096)
                if not piece:
                    break
                received += piece
            except TimeoutError:
                continue
            except OSError:
                break
        assert problem(received) == (408, "request_timeout")
        assert time.monotonic() - started < 3


def test_an_idle_connection_is_closed(server):
    with connect(server) as connection:
        assert read_to_end(connection) == b""
    with connect(server) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\n{HOST}\r\n".encode())
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(server):
    requests = b"".join(
        post(f"Content-Length: {len(str(n))}\r\n", str(n).encode(), "/v1/channels/pipe/events")
        + f"GET /v1/channels/pipe HTTP/1.1\r\n{HOST}\r\n".encode()
        for n in range(30)
    )
    answers = exchange(server, requests + get("/v1/nothing"))
    assert answers.count(b"HTTP/1.1 201") == 30
    shown = [part.split(b',"time"')[0] for part in answers.split(b'"data":')[1:]]
    assert shown == [str(n).encode() for n in range(30)]
    assert answers.rindex(b"HTTP/1.1 404") > answers.rindex(b"HTTP/1.1 200")


def test_answers_that_nobody_reads_cost_their_sender_only(server):
    body = b"x" * 500_000
    exchange(server, post(f"Content-Length: {len(body)}\r\nConnection: close\r\n", body, "/v1/channels/big/events"))
    before = server.resident_bytes()
    request = f"GET /v1/channels/big/events HTTP/1.1\r\n{HOST}\r\n".encode()
    with connect(server) as connection:
        connection.settimeout(0.3)
        try:
            connection.sendall(request * 2000)
        except TimeoutError:
            pass
        assert server.resident_bytes() - before < 50_000_000
        connection.settimeout(5)
        received = 0
        while received < 20_000_000:
            received += len(connection.recv(1 << 20))


def test_a_half_closed_client_gets_its_answer(server):
    with connect(server) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\n{HOST}\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection).endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("text", ["a\rid: forged", "a\nevent: forged\ndata: x", "a\r\n\r\nid: forged\n\n", "\n\n", "\r"])
def test_data_cannot_forge_fields_of_a_stream(server, text):
    body, channel = text.encode(), f"forge-{zlib.crc32(text.encode())}"
    head = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    answer = exchange(server, post(head, body, f"/v1/channels/{channel}/events"))
    written = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    with connect(server) as connection:
        path = f"/v1/channels/{channel}/events?since=earliest"
        connection.sendall(get(path, "Accept: text/event-stream\r\n"))
        stream = b""
        while f"id: {written}\n".encode() not in stream:
            stream += connection.recv(4096)
    lines = stream.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    fields = {line.split(b":")[0] for line in lines if line}
    assert fields == {b"retry", b"id", b"data"}
    assert {line for line in lines if line.startswith(b"id:")} == {lines[1], f"id: {written}".encode()}
    data = b"\n".join(line[6:] for line in lines if line.startswith(b"data:"))
    assert data == text.replace("\r\n", "\n").replace("\r", "\n").encode()


def test_an_event_name_cannot_forge_fields(server):
    with websocket(server) as connection:
        connection.sendall(frame(0x81, b'{"type":"publish","channel":"n","data":1,"event":"a\\nid: forged","id":1}'))
        assert json.loads(next_frame(connection)[1])["code"] == "invalid_parameter"


def websocket(server, path="/v1/ws", extension=""):
    connection = connect(server)
    fields = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extension}"
    )
    connection.sendall(f"GET {path} HTTP/1.1\r\n{HOST}{fields}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


def frame(first, payload, masked=True):
    length, bit = len(payload), 0x80 if masked else 0
    if length < 126:
        head = bytes([first, bit | length])
    elif length < 65536:
        head = bytes([first, bit | 126]) + struct.pack(">H", length)
    else:
        head = bytes([first, bit | 127]) + struct.pack(">Q", length)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def exactly(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        assert piece, "the connection ended"
        data += piece
    return data


def next_frame(connection):
    """The next frame that is no ping: its opcode and payload."""
    while True:
        first, length = exactly(connection, 2)
        if length == 126:
            (length,) = struct.unpack(">H", exactly(connection, 2))
        elif length == 127:
            (length,) = struct.unpack(">Q", exactly(connection, 8))
        payload = exactly(connection, length)
        if first & 15 != 9:
            return first & 15, payload


def bomb():
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compress.compress(b"\0" * 100_000_000) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4]


VIOLATIONS = {
    "not masked": (frame(0x81, b"x", masked=False), 1002),
    "reserved bit": (frame(0xA1, b"x"), 1002),
    "compressed unasked": (frame(0xC1, b"x"), 1002),
    "reserved opcode": (frame(0x83, b"x"), 1002),
    "not UTF-8": (frame(0x81, b"\xed\xa0\x80"), 1007),
    "too big": (b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0", 1009),
    "too big in fragments": (frame(0x02, b"x" * 600_000) + frame(0x80, b"x" * 600_000), 1009),
    "close code": (frame(0x88, struct.pack(">H", 1005)), 1002),
}


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("path", ["/v1/ws", "/v1/channels/v/ws"])
def test_a_violation_closes_with_its_code(server, name, path):
    data, code = VIOLATIONS[name]
    with websocket(server, path) as connection:
        connection.sendall(data)
        opcode, payload = next_frame(connection)
        assert (opcode, struct.unpack(">H", payload[:2])[0]) == (8, code)
        assert read_to_end(connection) == b""


def test_a_compression_bomb_costs_at_most_the_limit(server):
    before = server.resident_bytes()
    with websocket(server, extension="Sec-WebSocket-Extensions: permessage-deflate\r\n") as connection:
        connection.sendall(frame(0xC2, bomb()))
        opcode, payload = next_frame(connection)
        assert (opcode, payload[:2]) == (8, struct.pack(">H", 1009))
    assert server.resident_bytes() - before < 20_000_000


MESSAGES = {
    "{": "invalid_json",
    "[]": "invalid_message",
    '{"type":"dance"}': "unknown_type",
    '{"type":["subscribe"]}': "invalid_message",
    '{"type":"subscribe"}': "invalid_message",
    '{"type":"subscribe","channel":"a","channel":"b"}': "invalid_message",
    '{"type":"subscribe","channel":"a","since":"x"}': "invalid_cursor",
    '{"type":"subscribe","channel":"a","since":7}': "invalid_message",
    '{"type":"publish","channel":"a"}': "invalid_message",
    '{"type":"publish","channel":"a","data_base64":"*"}': "invalid_message",
    '{"type":"publish","channel":"a","data":' + "[" * 100_000: "invalid_json",
    '{"type":"publish","channel":"a","data":' + "[" * 100_000 + "]" * 100_000 + "}": "invalid_json",
    '{"type":"publish","channel":"a","data":' + "[" * 129 + "]" * 129 + "}": "invalid_json",
    '{"type":"ping","id":[1]}': "invalid_message",
    '{"type":"\\ud800"}': "invalid_json",
}


@pytest.mark.parametrize("text", MESSAGES, ids=lambda text: text[:45])
def test_a_broken_message_is_refused_and_the_next_one_served(server, text):
    with websocket(server) as connection:
        connection.sendall(frame(0x81, text.encode()) + frame(0x81, b'{"type":"ping","id":2}'))
        error = json.loads(next_frame(connection)[1])
        assert (error["type"], error["code"]) == ("error", MESSAGES[text])
        assert json.loads(next_frame(connection)[1]) == {"type": "pong", "id": 2}


def test_subscriptions_are_bounded(server):
    with websocket(server) as connection:
        for n in range(1001):
            connection.sendall(frame(0x81, b'{"type":"subscribe","channel":"s%d"}' % n))
            reply = json.loads(next_frame(connection)[1])
            assert reply.get("code") == (None if n < 1000 else "too_many_channels")


def test_a_peer_that_never_answers_pings_is_closed(server):
    with websocket(server) as connection:
        started = time.monotonic()
        opcode, payload = next_frame(connection)
        assert (opcode, payload[:2]) == (8, struct.pack(">H", 4002))
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=1e9", "limit=x", "limit=1.5", "wait=61", "wait=NaN", "wait=-1", "wait=1e1", "sinc=x",
     "limit=1&limit=1", "since=%ff"],
)  # fmt: skip
def test_a_parameter_out_of_range_is_named(server, query):
    assert problem(exchange(server, get(f"/v1/channels/x/events?{query}"))) == (400, "invalid_parameter")


@pytest.mark.parametrize("since", ["x", "latest.", "0" * 10_000, "0123456789-18446744073709551616", "earliest,latest", ""])
def test_what_is_no_cursor_is_refused_everywhere(server, since):
    path = f"/v1/channels/x/events?since={since}"
    assert problem(exchange(server, get(path))) == (400, "invalid_cursor")
    assert problem(exchange(server, get(path, "Accept: text/event-stream\r\n"))) == (400, "invalid_cursor")


def seeded():
    seed = int(os.environ.get("TIDEWIRE_SEED", random.randrange(1 << 32)))
    print(f"TIDEWIRE_SEED={seed}")
    return random.Random(seed)


def throw(server, data, rng):
    with connect(server) as connection:
        connection.settimeout(0.02)
        try:
            connection.sendall(data)
            connection.recv(4096)
            if rng.random() < 0.3:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass


def test_random_bytes(server):
    rng = seeded()
    for _ in range(300):
        throw(server, rng.randbytes(rng.randrange(1, 400)), rng)


def test_mutated_requests(server):
    rng = seeded()
    whole = [
        post("Content-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 7\r\n", b'{"a":1}'),
        post("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        get("/v1/events?channel=a&channel=b&since=earliest&wait=0.01&limit=5"),
        get("/v1/channels/a/events", "Accept: text/event-stream\r\nLast-Event-ID: 0123456789-1\r\n"),
        b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + frame(0x81, b'{"type":"subscribe","channel":"a"}'),
    ]
    for _ in range(400):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(data))
            choice = rng.random()
            if choice < 0.5:
                data[at] ^= 1 << rng.randrange(8)
            elif choice < 0.75:
                del data[at : at + rng.randrange(1, 10)]
            else:
                data[at:at] = rng.choice([b"\r\n", b"\0", b"%", b"\xff" * 5, b": "])
            if not data:
                break
        throw(server, bytes(data), rng)


def test_what_a_broken_connection_was_owed_goes_to_nobody_else(server):
    """Found by random frames: replies to a client that was gone came before the next client's handshake."""
    reset = struct.pack("ii", 1, 0)
    for _ in range(200):
        leaving = websocket(server)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        leaving.sendall(frame(0x81, b"{") * 3)
        leaving.close()
        connection = connect(server)
        connection.sendall(f"GET /healthz HTTP/1.1\r\n{HOST}\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.close()


def test_a_held_poll_that_was_overtaken_is_told_at_once(tmp_path):
    """Found by racing clients: a poll held alone whose position was dropped waited out its time in silence."""
    own = Server(tmp_path, "[history]\nevents = 3\n")
    try:
        path = "/v1/channels/h/events"
        body = b"Content-Type: text/plain\r\nContent-Length: 1\r\n"
        with connect(own) as held, connect(own) as publisher:
            # An unusual limit is held alone, so it is looked at after the whole burst.
            held.sendall(f"GET {path}?wait=20&limit=7 HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode())
            while b'long_poll"} 1' not in exchange(own, get("/metrics")):
                pass
            publisher.sendall(b"".join(post(body.decode(), b"x", path) for _ in range(50)))
            started = time.monotonic()
            answer = json.loads(read_to_end(held).partition(b"\r\n\r\n")[2])
            assert time.monotonic() - started < 5
            assert answer["gap"] or answer["events"], answer
            if answer["gap"]:
                assert answer["gap"]["channel"] == "h" and answer["gap"]["requested"]
    finally:
        own.stop()
