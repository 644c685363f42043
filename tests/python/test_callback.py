"""The application that decides by itself: a real HTTP server that the test runs. Must not know tokens."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from websockets.exceptions import InvalidStatus

from conftest import Server
from test_access import ask, code, publish, receive, say, socket, stream

ADMIN_KEY = "the admin key of this test"


class Application:
    """Answers as `answer` says, and keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.answer = lambda question: (200, {"allow": True})
        application = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                application.asked.append((self.headers.get("Authorization"), question))
                status, body = application.answer(question)
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Listener(ThreadingHTTPServer):
            request_queue_size = 256

        self.server = Listener(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def application():
    running = Application()
    yield running
    running.server.shutdown()


@pytest.fixture(scope="module")
def server(application, tmp_path_factory):
    directory = tmp_path_factory.mktemp("callback")
    for name, text in [("callback.key", "shared with the application"), ("admin.key", ADMIN_KEY)]:
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    config = f"""
    auth.admin_key_file = "admin.key"
    rights.subscribe = "authenticated"
    rights.publish = "authenticated"
    [callback]
    url = "http://127.0.0.1:{application.server.server_port}/tidewire"
    on = ["connect", "subscribe", "publish"]
    secret_file = "callback.key"
    timeout_ms = 500
    forward_headers = ["cookie", "authorization"]
    """
    running = Server(directory, config)
    yield running
    running.stop(said="the application does not answer properly")


@pytest.fixture
def app(application):
    """Knows users by their cookie, and lets them do what they ask on channels that begin with their name."""

    def answer(question):
        if question["action"] == "connect":
            cookies = dict(question.get("headers", []))
            user = cookies.get("cookie", "").removeprefix("sid=")
            return 200, {"allow": bool(user), "user": user, "reason": "who are you?"}
        return 200, {"allow": question["channel"].startswith(question["user"])}

    application.answer = answer
    application.asked.clear()
    return application


def test_the_application_says_who_comes_and_what_they_may(server, app):
    ann = {"Cookie": "sid=ann"}
    own = {"Origin": f"http://{server.address}", **ann}
    assert publish(server, "ann:1", "hello", None, **own)[0] == 201
    assert [question["action"] for _, question in app.asked] == ["connect", "publish"]
    assert all(authorization == "Bearer shared with the application" for authorization, _ in app.asked)
    assert app.asked[1][1]["user"] == "ann" and app.asked[1][1]["address"] == "127.0.0.1"
    assert code(publish(server, "bob:1", "hello", None, **own)) == (403, "forbidden")
    status, _, body = ask(server, "GET", "/v1/channels/ann:1/events")
    assert (status, body["code"], body["detail"]) == (403, "forbidden", "who are you?")
    assert ask(server, "GET", "/v1/channels/ann:1/events", **ann)[2]["events"][0]["data"] == "hello"
    assert code(ask(server, "GET", "/v1/events?channel=ann:1&channel=bob:1", **ann)) == (403, "forbidden")
    connection, answer = stream(server, "/v1/events?channel=ann:1&channel=ann:2", **ann)
    assert answer.status == 200
    connection.close()
    # The application itself is not asked about itself.
    app.asked.clear()
    assert publish(server, "any", "x", ADMIN_KEY)[0] == 201 and app.asked == []


def test_a_sockets_messages_wait_in_order(server, app):
    options = {"additional_headers": {"Cookie": "sid=ann"}, "origin": f"http://{server.address}"}
    from websockets.sync.client import connect

    with connect(f"ws://{server.address}/v1/ws", **options) as member:
        for number in range(20):
            channel = "ann:9" if number % 2 == 0 else "bob:9"
            member.send(json.dumps({"type": "publish", "channel": channel, "data": number, "id": number}))
            member.send(json.dumps({"type": "ping", "id": f"p{number}"}))
        for number in range(20):
            reply = receive(member)
            assert reply["id"] == number
            assert reply["type"] == "published" if number % 2 == 0 else reply["code"] == "forbidden"
            assert receive(member) == {"type": "pong", "id": f"p{number}"}
        assert say(member, type="subscribe", channel="ann:9", since="earliest")["type"] == "subscribed"
        assert [receive(member)["data"] for _ in range(10)] == list(range(0, 20, 2))
        assert say(member, type="subscribe", channel="bob:9")["code"] == "forbidden"
    with connect(f"ws://{server.address}/v1/channels/ann:raw/ws", **options) as raw:
        for text in ["one", "two", b"\x00three"]:
            raw.send(text)
        assert [raw.recv(timeout=5) for _ in range(3)] == ["one", "two", b"\x00three"]


def test_without_a_proper_answer_nobody_comes_in(server, app):
    own = {"Cookie": "sid=ann", "Origin": f"http://{server.address}"}

    def slow(_):
        time.sleep(1)
        return 200, {"allow": True, "user": "ann"}

    for answer in [
        lambda _: (500, {"allow": True}),
        lambda _: (200, b"<html>"),
        lambda _: (200, {"allow": "yes"}),
        lambda _: (302, {"allow": True}),
        lambda _: (200, {"allow": True, "user": "ann", "rights": {"subscribe": "*"}}),
        slow,
    ]:
        app.answer = answer
        begun = time.time()
        assert code(publish(server, "ann:1", "x", None, **own)) == (503, "unavailable")
        assert time.time() - begun < 3
    app.answer = lambda _: (403, b"")
    assert code(publish(server, "ann:1", "x", None, **own)) == (403, "forbidden")


def test_answers_hold_as_long_as_they_say(server, app):
    counted = []

    def answer(question):
        counted.append(question["action"])
        return 200, {"allow": True, "user": "ann", "cache_seconds": 60, "rights": {"publish": ["ann:*"]}}

    app.answer = answer
    own = {"Cookie": "sid=kept", "Origin": f"http://{server.address}"}
    for _ in range(5):
        assert publish(server, "ann:kept", "x", None, **own)[0] == 201
    assert counted == ["connect", "publish"]
    # The rights that it gives hold, and it is not asked about what they do not cover.
    assert code(publish(server, "bob:kept", "x", None, **own)) == (403, "forbidden")
    assert counted == ["connect", "publish"]


def test_many_wait_without_holding_up_others(server, app):
    release = threading.Event()

    def answer(question):
        if question["action"] == "publish" and question["channel"] == "ann:slow":
            release.wait(0.4)
        return 200, {"allow": True, "user": "ann"}

    app.answer = answer
    own = {"Cookie": "sid=ann", "Origin": f"http://{server.address}"}
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(publish(server, "ann:slow", "x", None, **own)[0]))
        for _ in range(8)
    ]
    [thread.start() for thread in threads]
    begun = time.time()
    assert ask(server, "GET", "/healthz")[0] == 200
    assert publish(server, "ann:quick", "x", ADMIN_KEY)[0] == 201
    assert time.time() - begun < 0.3
    release.set()
    [thread.join() for thread in threads]
    assert outcomes == [201] * 8


def test_who_is_refused_at_the_door_gets_no_socket(server, app):
    with pytest.raises(InvalidStatus) as refused, socket(server):
        pass
    assert refused.value.response.status_code == 403
