"""Limits of connections, subscriptions and messages: what is refused, how it is said, and what stays as it was."""

import json
import socket as sockets
import struct
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from conftest import Server
from test_access import ADMIN_KEY, SECRET, ask, code, publish, receive, say, socket, stream, token


def start(directory, config):
    for name, text in [("secret", SECRET), ("admin.key", ADMIN_KEY)]:
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return Server(directory, 'auth.admin_key_file = "admin.key"\nrights.subscribe = "authenticated"\n'
                  'rights.publish = "authenticated"\n' + config + '\n[[auth.issuers]]\nsecret_file = "secret"\n')


@pytest.fixture
def serve(tmp_path):
    """Starts servers, and stops them."""
    running = []

    def start_one(config):
        running.append(start(tmp_path, config))
        return running[-1]

    yield start_one
    [server.stop() for server in running]


def metric(server, name):
    text = ask(server, "GET", "/metrics")[2].decode()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def limited(answer, limit):
    status, headers, body = answer
    assert (status, body["code"]) == (429, "too_many_requests") and limit in body["detail"]
    assert int(headers["Retry-After"]) >= 1
    return headers


def test_messages_of_a_connection(serve):
    server = serve("limits.messages_per_second = 5\nlimits.message_bytes_per_second = 1000")
    key = token()
    with socket(server, key) as member:
        replies = [say(member, type="publish", channel="a", data=n, id=n) for n in range(8)]
        assert [reply["type"] for reply in replies] == ["published"] * 5 + ["error"] * 3
        assert [reply["id"] for reply in replies] == list(range(8))
        assert replies[5]["code"] == "too_many_requests" and "messages_per_second" in replies[5]["message"]
        time.sleep(0.5)
        assert say(member, type="publish", channel="a", data=1)["type"] == "published"
    with socket(server, key) as member:
        assert say(member, type="publish", channel="a", data="x" * 900)["type"] == "published"
        assert "message_bytes_per_second" in say(member, type="ping", data="x" * 900)["message"]
    # Who does not listen is closed; raw sockets have no other way to be told.
    with socket(server, key) as member, pytest.raises(ConnectionClosed):
        for _ in range(200):
            member.send(json.dumps({"type": "ping"}))
        for _ in range(201):
            member.recv(timeout=5)
    assert member.close_code == 4007
    with socket(server, key, "/v1/channels/a/ws") as raw, pytest.raises(ConnectionClosed):
        for _ in range(6):
            raw.send("x")
        for _ in range(7):
            raw.recv(timeout=5)
    assert raw.close_code == 4007 and raw.close_reason == "too_many_requests"
    # The application is not held up.
    with socket(server, ADMIN_KEY) as member:
        assert all(say(member, type="ping")["type"] == "pong" for _ in range(50))
    assert metric(server, 'tidewire_limited_total{limit="messages_per_second"}') > 100


def test_messages_of_a_user_over_all_connections(serve):
    server = serve("limits.user_messages_per_second = 4\nlimits.user_message_bytes_per_second = 5000")
    ann, bob = token("ann"), token("bob")
    assert [publish(server, "a", "x", ann)[0] for _ in range(4)] == [201] * 4
    headers = limited(publish(server, "a", "x", ann), "user_messages_per_second")
    assert headers["RateLimit-Policy"] == '"user_messages_per_second";q=4;w=1'
    assert headers["RateLimit"] == '"user_messages_per_second";r=0;t=1'
    limited(ask(server, "POST", "/v1/tickets", ann), "user_messages_per_second")
    with socket(server, ann) as member:
        assert say(member, type="ping", id=7)["code"] == "too_many_requests"
    assert publish(server, "a", "x" * 4900, bob)[0] == 201
    limited(publish(server, "a", "x" * 4900, bob), "user_message_bytes_per_second")
    limited(ask(server, "POST", "/v1/channels/a/events", bob, iter([b"x" * 4900])), "user_message_bytes_per_second")
    time.sleep(1.1)
    assert publish(server, "a", "x", ann)[0] == 201


def test_connections_and_subscriptions_of_a_user(serve):
    server = serve("limits.connections_per_user = 2\nlimits.subscriptions_per_user = 3")
    ann, bob = token("ann"), token("bob")
    with socket(server, ann) as one, socket(server, ann) as two:
        with pytest.raises(InvalidStatus) as refused, socket(server, ann):
            pass
        assert refused.value.response.status_code == 429
        assert "connections_per_user" in refused.value.response.body.decode()
        limited(ask(server, "GET", "/v1/channels/a/events?wait=1", ann), "connections_per_user")
        # An EventSource never comes back after anything but 200.
        connection, answer = stream(server, "/v1/channels/a/events", ann)
        text = answer.read().decode()
        assert answer.status == 200 and answer.headers["Content-Type"] == "text/event-stream"
        assert "event: tidewire.reconnect\n" in text and "\nretry: " in text and "too_many_requests" in text
        connection.close()
        # Requests that hold nothing are not counted.
        assert ask(server, "GET", "/v1/channels/a/events", ann)[0] == 200
        with socket(server, bob):
            pass
        assert say(one, type="subscribe", channel="a")["type"] == "subscribed"
        assert say(one, type="subscribe", channel="b")["type"] == "subscribed"
        assert say(two, type="subscribe", channel="a")["type"] == "subscribed"
        refused = say(two, type="subscribe", channel="b", id=4)
        assert (refused["id"], refused["code"]) == (4, "too_many_requests")
        assert say(one, type="unsubscribe", channel="b")["type"] == "unsubscribed"
        assert say(two, type="subscribe", channel="b")["type"] == "subscribed"
        # One that breaks gives all back.
        one.socket.shutdown(sockets.SHUT_RDWR)
        deadline = time.time() + 5
        while say(two, type="subscribe", channel="c")["type"] == "error":
            assert time.time() < deadline
    for _ in range(10):
        assert ask(server, "GET", "/v1/channels/a/events?wait=0.01", ann)[0] == 200


def test_connections_of_an_address(serve):
    server = serve("limits.connections_per_ip = 3")
    held = [sockets.create_connection((server.host, server.port)) for _ in range(3)]
    limited(ask(server, "GET", "/healthz"), "connections_per_ip")
    connection, answer = stream(server, "/v1/channels/a/events", token())
    assert answer.status == 200 and b"tidewire.reconnect" in answer.read()
    connection.close()
    held.pop().close()
    deadline = time.time() + 5
    while ask(server, "GET", "/healthz")[0] != 200:
        assert time.time() < deadline
    [connection.close() for connection in held]
    # Another address has its own.
    connection = sockets.create_connection((server.host, server.port), source_address=("127.0.0.2", 0))
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()


def test_attempts_of_an_address(serve):
    server = serve("limits.attempts_per_ip_per_minute = 10")
    outcomes = [ask(server, "GET", "/healthz")[0] for _ in range(15)]
    assert outcomes == [200] * 10 + [429] * 5
    assert "Retry-After" in ask(server, "GET", "/healthz")[1]


PROXIES = 'proxies.trusted = ["127.0.0.1"]\nlimits.connections_per_ip = 2\n'


def test_a_proxy_brings_many(serve):
    server = serve(PROXIES + 'proxies.header = "x-forwarded-for"')
    key = token()

    def open_one(client):
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": client}
        return connect(f"ws://{server.address}/v1/ws", additional_headers=headers)

    # The proxy itself is not counted, its clients are, whatever they wrote in front.
    with open_one("192.0.2.1"), open_one("6.6.6.6, 192.0.2.1"), open_one("192.0.2.2"):
        with pytest.raises(InvalidStatus) as refused, open_one("7.7.7.7, 192.0.2.1"):
            pass
        assert refused.value.response.status_code == 429
        assert [ask(server, "GET", "/healthz")[0] for _ in range(5)] == [200] * 5
        assert code(ask(server, "GET", "/v1/channels/a/events", key, X_Forwarded_For="nonsense")) == (
            400, "invalid_request")
    # Who is no proxy may say what they like.
    connection = sockets.create_connection((server.host, server.port), source_address=("127.0.0.3", 0))
    connection.sendall(b"GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: nonsense\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 401")
    connection.close()


def test_the_proxy_protocol(serve):
    server = serve(PROXIES + "proxies.proxy_protocol = true")
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    held = []

    def exchange(header, pieces=1, source="127.0.0.1"):
        connection = sockets.create_connection((server.host, server.port), timeout=5, source_address=(source, 0))
        held.append(connection)
        sent = header + request
        for at in range(0, len(sent), max(1, len(sent) // pieces)):
            connection.sendall(sent[at:at + max(1, len(sent) // pieces)])
        return connection.recv(200)

    def version_2(client):
        addresses = sockets.inet_aton(client) + sockets.inet_aton("127.0.0.1") + struct.pack("!HH", 1, 2)
        return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(addresses)) + addresses

    line = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n"
    assert exchange(line).startswith(b"HTTP/1.1 200")
    assert exchange(version_2("192.0.2.1"), pieces=50).startswith(b"HTTP/1.1 200")
    assert exchange(line).startswith(b"HTTP/1.1 429")
    assert exchange(version_2("192.0.2.2")).startswith(b"HTTP/1.1 200")
    assert exchange(b"PROXY UNKNOWN\r\n").startswith(b"HTTP/1.1 200")
    assert exchange(b"").startswith(b"HTTP/1.1 400")
    assert exchange(b"PROXY TCP4 nonsense\r\n").startswith(b"HTTP/1.1 400")
    # Who is no proxy may not say who they are.
    assert exchange(line, source="127.0.0.3").startswith(b"HTTP/1.1 505")
    assert exchange(b"", source="127.0.0.3").startswith(b"HTTP/1.1 200")
    [connection.close() for connection in held]
