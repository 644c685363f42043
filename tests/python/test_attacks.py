"""Attacks on the door: requests hidden in others, credentials that contradict, connections that end while somebody
else decides about them, floods. Must not need more than the wire."""

import json
import re
import socket as sockets
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

from conftest import Server
from test_access import ADMIN_KEY, SECRET, ask, code, publish, receive, say, socket, token
from test_callback import Application

PAGE = "https://app.example.com"
CONFIG = """
origins = ["https://app.example.com"]
auth.admin_key_file = "admin.key"
auth.cookie = "session"
rights.subscribe = "granted"
limits.channels_per_connection = 50
limits.event_bytes = 65536
[[auth.issuers]]
secret_file = "secret"
[[channels]]
pattern = "user:{sub}:*"
rights.subscribe = "authenticated"
rights.history = "authenticated"
rights.publish = "authenticated"
"""


def keys(directory):
    for name, text in [("secret", SECRET), ("admin.key", ADMIN_KEY)]:
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(keys(tmp_path_factory.mktemp("attacks")), CONFIG)
    yield running
    running.stop()


def exchange(server, sent, seconds=5):
    """Sends bytes as they are, and gives all that comes until the server ends the connection or is silent."""
    with sockets.create_connection((server.host, server.port), timeout=seconds) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            pass
        return received


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def head(method, path, *fields, key=None, length=None):
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *fields]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_the_body_of_a_refused_request_is_no_request(server):
    hidden = head("POST", "/v1/channels/smuggled/events", key=ADMIN_KEY, length=1) + b"x"
    for fields, key, expected in [([], None, 401), ([], "nonsense", 401), (["Origin: https://evil.net"], ADMIN_KEY, 403),
                                  ([f"Idempotency-Key: {'x' * 300}"], ADMIN_KEY, 400)]:
        for method, path in [("POST", "/v1/channels/a/events"), ("GET", "/v1/channels/a/events"),
                             ("POST", "/v1/tickets"), ("DELETE", "/v1/channels/a"), ("POST", "/nothing")]:
            received = exchange(server, head(method, path, *fields, key=key, length=len(hidden)) + hidden, 1)
            assert len(statuses(received)) == 1, (method, path, received)
    assert ask(server, "GET", "/v1/channels/smuggled/events", ADMIN_KEY)[2]["events"] == []


def test_two_answers_to_where_a_request_ends_are_refused(server):
    hidden = head("GET", "/v1/channels/a/events", key=ADMIN_KEY)
    for fields in [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", f"Content-Length: {5 + len(hidden)}"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding:\x0bchunked"],
        ["Content-Length: +5"],
        ["Content-Length: 5, 5"],
        ["X: y\r\n Content-Length: 5"],
        ["X: y\nContent-Length: 5"],
    ]:
        sent = head("POST", "/v1/channels/a/events", *fields, key=ADMIN_KEY) + b"0\r\n\r\n" + hidden
        assert statuses(exchange(server, sent, 1))[1:] == [], fields


def test_a_request_has_one_host_origin_and_credential(server):
    good, other = token(publish=["a"]), token("bob", publish=["b"])
    path = "/v1/channels/a/events"
    for fields in [
        [f"Authorization: Bearer {good}", f"Authorization: Bearer {other}"],
        [f"Authorization: Bearer {good}", f"authorization: Bearer {good}"],
        [f"Cookie: session={good}; session={other}", f"Origin: {PAGE}"],
        [f"Cookie: session={good}", f"Cookie: session={good}", f"Origin: {PAGE}"],
        [f"Cookie: session={good}", f"Origin: {PAGE}", "Origin: https://evil.net"],
        [f"Cookie: session={good}", f"Origin: {PAGE}, https://evil.net"],
        [f"Authorization: Bearer {good}", "Host: b"],
        [f"Authorization: Bearer {good}", f"Sec-WebSocket-Protocol: bearer.{good}"],
        [f"Authorization: Bearer {good} {good}"],
        [f"Authorization: Bearer {good},{good}"],
        [f"Authorization:Bearer\t{good}"],
    ]:
        received = exchange(server, head("POST", path, *fields, "Connection: close", length=1) + b"x")
        assert statuses(received)[0] in (400, 401, 403), (fields, received)
    assert statuses(exchange(server, head("POST", path, "Connection: close", key=good, length=1) + b"x")) == [201]


def test_what_follows_a_refused_upgrade_is_not_read(server):
    upgrade = head("GET", "/v1/ws", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    publish_frame = json.dumps({"type": "publish", "channel": "x", "data": 1}).encode()
    frame = bytes([0x81, 0x80 | len(publish_frame), 0, 0, 0, 0]) + publish_frame
    received = exchange(server, upgrade + frame + frame, 1)
    assert statuses(received)[0] == 401 and b"published" not in received


def test_names_of_channels_cannot_be_dressed_up(server):
    ann = token("ann")
    for name in ["user:bob:x", "user%3Abob%3Ax", "%75ser:bob:x", "user:ann:x/../../bob:x", "user:ann%2F..%2Fbob:x",
                 "user:ann:x%00", "user:ann%253Abob:x", "User:ann:x", "user:ann", "user::ann:x", "user:ann%E2%80%8B:x",
                 "user:%61nn2:x", "user:ANN:x", "user:an%6e%6e:x", "%2e%2e/user:ann:x", "user:ann:x;v=1"]:
        status = ask(server, "GET", f"/v1/channels/{name}/events", ann)[0]
        assert status in (400, 403, 404), (name, status)
    for name in ["user:ann:x", "user%3Aann%3Ax", "%75ser:%61nn:x"]:
        assert ask(server, "GET", f"/v1/channels/{name}/events", ann)[0] == 200, name
    # A user whose name has a separator in it owns nothing of that form.
    for user in ["ann:x", "*", "", "bob\x00"]:
        assert ask(server, "GET", "/v1/channels/user:ann:x/events", token(user))[0] in (401, 403)


def test_subscriptions_end_at_their_bound(server):
    with socket(server, token(subscribe=["f:*"])) as member:
        for number in range(500):
            member.send(json.dumps({"type": "subscribe", "channel": f"f:{number}", "id": number}))
        replies = [receive(member)["type"] for _ in range(500)]
        assert replies == ["subscribed"] * 50 + ["error"] * 450


def test_large_tokens_and_crowded_requests_cost_little(server):
    begun = time.time()
    large = token(subscribe=["x" * 60] * 80)
    crowded = token(subscribe=["a"] * 300)
    for key in [large, crowded, "a" * 9000, ".".join(["a" * 2000] * 3), "." * 8000]:
        assert publish(server, "a", "x", key)[0] in (401, 403)
    cookies = "; ".join(f"c{n}=v" for n in range(1500))
    assert code(publish(server, "a", "x", None, Cookie=cookies, Origin=PAGE)) == (401, "unauthenticated")
    protocols = ", ".join(f"p{n}" for n in range(1500))
    assert ask(server, "GET", "/v1/ws", Sec_WebSocket_Protocol=protocols)[0] == 426
    query = "&".join(f"channel=c{n}" for n in range(1000))
    assert ask(server, "GET", f"/v1/events?{query}", ADMIN_KEY)[0] == 400
    assert time.time() - begun < 5


def test_connections_that_end_while_somebody_decides(tmp_path):
    """Their numbers are used again at once, and nobody gets what was meant for them."""
    application = Application()
    gate = threading.Event()

    def answer(question):
        gate.wait(2)
        headers = dict(question.get("headers", []))
        return 200, {"allow": True, "user": headers.get("x-user", "nobody")}

    application.answer = answer
    config = f"""
    rights.subscribe = "authenticated"
    rights.publish = "authenticated"
    rights.history = "authenticated"
    [callback]
    url = "http://127.0.0.1:{application.server.server_port}/"
    on = ["connect"]
    timeout_ms = 5000
    concurrency = 64
    forward_headers = ["x-user"]
    [[channels]]
    pattern = "user:{{sub}}:*"
    """
    server = Server(tmp_path, config)
    request = head("GET", "/v1/channels/user:ann:x/events", "X-User: ann", "Connection: keep-alive")
    for ending in ["close", "reset", "half", "pipelined"]:
        gate.clear()
        crowd = []
        for _ in range(10):
            connection = sockets.create_connection((server.host, server.port), timeout=5)
            connection.sendall(request)
            crowd.append(connection)
        for connection in crowd:
            if ending == "half":
                connection.shutdown(sockets.SHUT_WR)
            elif ending == "pipelined":
                connection.sendall(request * 3)
            else:
                if ending == "reset":
                    connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                connection.close()
        late = [sockets.create_connection((server.host, server.port), timeout=5) for _ in range(10)]
        for connection in late:
            connection.sendall(head("GET", "/v1/channels/user:ann:x/events", "X-User: bob", "Connection: close"))
        gate.set()
        for connection in late:
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert statuses(received) == [403], received
            connection.close()
        for connection in crowd:
            if ending in ("half", "pipelined"):
                connection.settimeout(5)
                received, wanted = b"", 1 if ending == "half" else 4
                while len(statuses(received)) < wanted or not received.endswith(b"}"):
                    piece = connection.recv(65536)
                    assert piece, (ending, received)
                    received += piece
                assert statuses(received) == [200] * wanted
                connection.close()
        assert ask(server, "GET", "/healthz")[0] == 200
    server.stop()
    application.server.shutdown()


def test_a_socket_that_ends_while_somebody_decides(tmp_path):
    application = Application()
    gate = threading.Event()
    application.answer = lambda question: (gate.wait(2) and None) or (200, {"allow": True})
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    (tmp_path / "admin.key").chmod(0o600)
    config = f"""
    [callback]
    url = "http://127.0.0.1:{application.server.server_port}/"
    on = ["subscribe", "publish"]
    timeout_ms = 5000
    concurrency = 64
    """
    server = Server(tmp_path, config)
    for round in range(20):
        gate.clear()
        one = socket(server)
        for number in range(5):
            one.send(json.dumps({"type": "subscribe", "channel": f"c{number}", "id": number}))
            one.send(json.dumps({"type": "publish", "channel": f"c{number}", "data": round}))
        if round % 2:
            one.socket.shutdown(sockets.SHUT_RDWR)
            gate.set()
        else:
            gate.set()
            assert [receive(one)["type"] for _ in range(3)][0] == "subscribed"
            one.close()
    assert ask(server, "GET", "/healthz")[0] == 200
    with socket(server) as member, pytest.raises(ConnectionClosed):
        member.send("x" * 2_000_000)
        member.recv(timeout=5)
    server.stop()
    application.server.shutdown()
