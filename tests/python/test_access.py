"""Who may do what, over every transport, with tokens of PyJWT. Must not know how tokens are checked."""

import http.client
import json
import subprocess
import threading
import time

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import BINARY, Server

SECRET = "a secret that only this test and its server know, 64 bytes long.."
ADMIN_KEY = "the admin key of this test"
PAGE = "https://app.example.com"
CONFIG = """
origins = ["https://app.example.com", "https://*.example.org"]
[auth]
cookie = "session"
grace_seconds = 1
ticket_seconds = 2
leeway_seconds = 0
admin_key_file = "admin.key"
[[auth.issuers]]
secret_file = "secret"
[[channels]]
pattern = "news:*"
rights.subscribe = "anyone"
rights.history = "anyone"
rights.publish = "nobody"
[[channels]]
pattern = "user:{sub}:*"
rights.subscribe = "authenticated"
rights.history = "authenticated"
rights.publish = "authenticated"
[[channels]]
pattern = "live:*"
rights.subscribe = "authenticated"
rights.history = "nobody"
rights.publish = "authenticated"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("access")
    for name, text in [("secret", SECRET), ("admin.key", ADMIN_KEY)]:
        path = directory / name
        path.write_text(text)
        path.chmod(0o600)
    running = Server(directory, CONFIG)
    yield running
    running.stop()


def token(user="ann", seconds=60, **rights):
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + seconds}
    if rights:
        claims["tidewire"] = rights
    return jwt.encode(claims, SECRET, "HS256")


def ask(server, method, path, key=None, body=None, timeout=5, **headers):
    """One request; gives status, headers and body."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    try:
        return answer.status, answer.headers, json.loads(text)
    except ValueError:
        return answer.status, answer.headers, text


def publish(server, channel, text, key=ADMIN_KEY, **headers):
    return ask(server, "POST", f"/v1/channels/{channel}/events", key, text, **headers)


def code(answer):
    status, _, body = answer
    return status, body["code"]


def stream(server, path, key=None, **headers):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    headers = {"Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection.request("GET", path, headers=headers)
    return connection, connection.getresponse()


def socket(server, key=None, path="/v1/ws", **options):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return connect(f"ws://{server.address}{path}", additional_headers=headers, **options)


def receive(socket):
    return json.loads(socket.recv(timeout=5))


def say(socket, **message):
    socket.send(json.dumps(message))
    return receive(socket)


def test_strangers_get_what_is_public_and_nothing_else(server):
    assert publish(server, "news:1", "hello")[0] == 201
    status, headers, page = ask(server, "GET", "/v1/channels/news:1/events")
    assert status == 200 and page["events"][0]["data"] == "hello"
    assert headers["Cache-Control"].startswith("public")
    for path in ["/v1/channels/a/events", "/v1/channels/a", "/v1/events?channel=news:1&channel=a",
                 "/v1/channels/user:ann:inbox/events", "/v1/channels/a/events?wait=1"]:
        status, headers, body = ask(server, "GET", path)
        assert (status, body["code"]) == (401, "unauthenticated"), path
        assert headers["WWW-Authenticate"] == "Bearer"
        connection, answer = stream(server, path.replace("?wait=1", ""))
        if path != "/v1/channels/a":
            assert answer.status == 401, path
        connection.close()
    assert code(publish(server, "a", "x", key=None)) == (401, "unauthenticated")
    assert code(publish(server, "news:1", "x", key=None)) == (403, "forbidden")
    with socket(server) as stranger:
        assert say(stranger, type="subscribe", channel="news:1")["type"] == "subscribed"
        assert say(stranger, type="subscribe", channel="a", id=1)["code"] == "unauthenticated"
        assert say(stranger, type="publish", channel="news:1", data=1)["code"] == "forbidden"
    for path in ["/v1/channels/a/ws", "/v1/channels/user:ann:x/ws"]:
        with pytest.raises(InvalidStatus) as refused, socket(server, path=path):
            pass
        assert refused.value.response.status_code == 401


def test_rights_are_what_the_token_names(server):
    key = token(subscribe=["chat:*"], publish=["chat:1"])
    assert publish(server, "chat:1", "one", key)[0] == 201
    assert code(publish(server, "chat:2", "two", key)) == (403, "forbidden")
    assert code(publish(server, "chat:1", "two", token(subscribe=["chat:*"]))) == (403, "forbidden")
    status, headers, page = ask(server, "GET", "/v1/channels/chat:1/events", key)
    assert status == 200 and [event["data"] for event in page["events"]] == ["one"]
    assert headers["Cache-Control"].startswith("private")
    assert code(ask(server, "GET", "/v1/channels/other/events", key)) == (403, "forbidden")
    assert code(ask(server, "GET", "/v1/events?channel=chat:1&channel=other", key)) == (403, "forbidden")
    with socket(server, key) as member:
        assert say(member, type="subscribe", channel="chat:1", since="earliest")["type"] == "subscribed"
        assert receive(member)["data"] == "one"
        assert say(member, type="subscribe", channel="other")["code"] == "forbidden"
        assert say(member, type="publish", channel="chat:2", data=1)["code"] == "forbidden"
    # What is refused does not depend on whether there is such a channel.
    publish(server, "exists", "x")
    refusals = [ask(server, "GET", f"/v1/channels/{name}/events", key) for name in ["exists", "exists-not"]]
    assert refusals[0][2] == refusals[1][2]


def test_a_users_channels_are_theirs(server):
    ann, bob = token("ann"), token("bob")
    assert publish(server, "user:ann:inbox", "for ann", ann)[0] == 201
    assert ask(server, "GET", "/v1/channels/user:ann:inbox/events", ann)[0] == 200
    assert code(ask(server, "GET", "/v1/channels/user:ann:inbox/events", bob)) == (403, "forbidden")
    for name in ["user:ann", "user:an", "user::inbox", "user:ann%3Ainbox", "USER:ann:inbox"]:
        assert ask(server, "GET", f"/v1/channels/{name}/events", bob)[0] in (403,), name


def test_who_may_not_read_back_gets_what_comes(server):
    key = token()
    first = publish(server, "live:1", "before", key)[2]["id"]
    publish(server, "live:1", "missed", key)
    assert code(ask(server, "GET", "/v1/channels/live:1/events", key)) == (403, "forbidden")
    assert code(ask(server, "GET", "/v1/channels/live:1", key)) == (403, "forbidden")
    with socket(server, key) as reader:
        assert say(reader, type="subscribe", channel="live:1", since="earliest")["code"] == "forbidden"
        assert say(reader, type="subscribe", channel="live:1", snapshot=True)["code"] == "forbidden"
        assert say(reader, type="subscribe", channel="live:1", since=first)["type"] == "subscribed"
        assert receive(reader)["type"] == "gap"
        last = publish(server, "live:1", "now", key)[2]["id"]
        assert receive(reader)["data"] == "now"
    with socket(server, key) as reader:
        # Nothing was missed, so there is no gap.
        say(reader, type="subscribe", channel="live:1", since=last)
        publish(server, "live:1", "then", key)
        assert receive(reader)["data"] == "then"
    connection, answer = stream(server, f"/v1/channels/live:1/events?since={first}", key)
    text = b""
    while b"tidewire.gap" not in text:
        text += answer.read1(500)
    assert b"missed" not in text
    connection.close()


def test_bad_tokens_are_refused_everywhere(server):
    now = int(time.time())
    claims = {"sub": "ann", "exp": now + 60, "tidewire": {"subscribe": ["*"], "publish": ["*"]}}
    bad = {
        "expired": jwt.encode({**claims, "exp": now - 5}, SECRET, "HS256"),
        "of somebody else": jwt.encode(claims, SECRET + "!", "HS256"),
        "without an end": jwt.encode({"sub": "ann"}, SECRET, "HS256"),
        "not begun": jwt.encode({**claims, "nbf": now + 50}, SECRET, "HS256"),
        "unsigned": jwt.encode(claims, None, "none"),
        "of another algorithm": jwt.encode(claims, SECRET, "HS512"),
        "wrong rights": jwt.encode({**claims, "tidewire": {"subscribe": "*"}}, SECRET, "HS256"),
        "no token": "abc",
        "cut": jwt.encode(claims, SECRET, "HS256")[:-2],
    }
    for what, key in bad.items():
        assert code(publish(server, "news:1", "x", key)) == (401, "unauthenticated"), what
        assert code(ask(server, "GET", "/v1/channels/news:1/events", key)) == (401, "unauthenticated"), what
        with pytest.raises(InvalidStatus) as refused, socket(server, key):
            pass
        assert refused.value.response.status_code == 401, what


def test_a_token_comes_in_a_subprotocol(server):
    key = token(subscribe=["a"])
    with connect(f"ws://{server.address}/v1/ws", subprotocols=["tidewire.v1", f"bearer.{key}"]) as member:
        assert member.subprotocol == "tidewire.v1"
        assert say(member, type="subscribe", channel="a")["type"] == "subscribed"


def test_a_token_in_the_url_is_refused(server):
    key = token(subscribe=["*"])
    for name in ["token", "access_token", "jwt"]:
        answer = ask(server, "GET", f"/v1/channels/news:1/events?{name}={key}")
        assert code(answer) == (400, "invalid_parameter")
        assert key not in json.dumps(answer[2])


def test_a_ticket_is_good_once_even_under_a_race(server):
    key = token(subscribe=["t"])
    assert code(ask(server, "POST", "/v1/tickets")) == (401, "unauthenticated")
    status, headers, body = ask(server, "POST", "/v1/tickets", key)
    assert status == 201 and headers["Cache-Control"] == "no-store" and body["expires_in_ms"] == 2000
    path = f"/v1/ws?ticket={body['ticket']}"
    with socket(server, path=path) as member:
        assert say(member, type="subscribe", channel="t")["type"] == "subscribed"
        assert say(member, type="subscribe", channel="u")["code"] == "forbidden"
    assert code(ask(server, "GET", path)) == (401, "unauthenticated")
    for _ in range(20):
        ticket = ask(server, "POST", "/v1/tickets", key)[2]["ticket"]
        outcomes, begin = [], threading.Barrier(6)

        def spend():
            begin.wait()
            outcomes.append(ask(server, "GET", f"/v1/channels/t/events?ticket={ticket}")[0])

        threads = [threading.Thread(target=spend) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sorted(outcomes) == [200] + [401] * 5
    ticket = ask(server, "POST", "/v1/tickets", key)[2]["ticket"]
    # A ticket buys no other ticket.
    assert ask(server, "POST", f"/v1/tickets?ticket={ticket}")[0] == 400
    late = ask(server, "POST", "/v1/tickets", key)[2]["ticket"]
    time.sleep(2.1)
    assert code(ask(server, "GET", f"/v1/channels/t/events?ticket={late}")) == (401, "unauthenticated")


def test_cookies_come_from_allowed_pages_only(server):
    cookie = {"Cookie": f"session={token(subscribe=['c'], publish=['c'])}"}
    own = f"http://{server.address}"
    assert ask(server, "GET", "/v1/channels/c/events", **cookie)[0] == 200
    assert ask(server, "GET", "/v1/channels/c/events", Origin=PAGE, **cookie)[0] == 200
    assert ask(server, "GET", "/v1/channels/c/events", Origin="https://x.example.org", **cookie)[0] == 200
    for headers in [{"Origin": "https://evil.net"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Sec-Fetch-Site": "same-site"}]:
        for method, path in [("GET", "/v1/channels/c/events"), ("POST", "/v1/channels/c/events")]:
            assert code(ask(server, method, path, body="x", **headers, **cookie)) == (403, "origin_not_allowed")
        connection, answer = stream(server, "/v1/channels/c/events", **headers, **cookie)
        assert answer.status == 403
        connection.close()
    # What may do harm needs the name of the page.
    assert code(publish(server, "c", "x", None, **cookie)) == (403, "origin_not_allowed")
    assert publish(server, "c", "x", None, Origin=own, **cookie)[0] == 201
    for origin, status in [(PAGE, None), ("https://evil.net", 403), (None, 403)]:
        try:
            with connect(f"ws://{server.address}/v1/ws", origin=origin, additional_headers=cookie) as member:
                assert status is None
                assert say(member, type="subscribe", channel="c")["type"] == "subscribed"
        except InvalidStatus as refused:
            assert refused.response.status_code == status


def test_pages_are_told_what_they_may(server):
    status, headers, _ = ask(server, "OPTIONS", "/v1/channels/a/events", Origin=PAGE,
                             Access_Control_Request_Method="POST", Access_Control_Request_Headers="authorization")
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    allowed = headers["Access-Control-Allow-Headers"].lower()
    for name in ["authorization", "content-type", "idempotency-key", "last-event-id", "tidewire-event", "tidewire-key"]:
        assert name in allowed
    for path in ["/v1/channels/news:1/events", "/v1/channels/nobody/events", "/nothing"]:
        _, headers, _ = ask(server, "GET", path, Origin=PAGE)
        assert headers["Access-Control-Allow-Origin"] == PAGE, path
        assert headers["Vary"] == "Origin"
    assert ask(server, "GET", "/v1/channels/news:1/events")[1]["Vary"] == "Origin"
    status, headers, _ = ask(server, "OPTIONS", "/v1/channels/a/events", Origin="https://evil.net",
                             Access_Control_Request_Method="POST")
    assert status == 403 and "Access-Control-Allow-Origin" not in headers
    connection, answer = stream(server, "/v1/channels/news:1/events", Origin=PAGE)
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    connection.close()


def test_streams_end_with_their_tokens(server):
    key = token(seconds=2, subscribe=["e"])
    with socket(server, key) as member:
        say(member, type="subscribe", channel="e")
        begun = time.time()
        assert receive(member) == {"type": "expired", "close_after_ms": 1000}
        with pytest.raises(ConnectionClosed):
            member.recv(timeout=5)
        assert member.close_code == 4004 and time.time() - begun < 5
    connection, answer = stream(server, "/v1/channels/e/events", token(seconds=2, subscribe=["e"]))
    text = answer.read()
    assert b"tidewire.reconnect" in text and b"token_expired" in text
    connection.close()
    begun = time.time()
    assert ask(server, "GET", "/v1/channels/e/events?wait=30", token(seconds=2, subscribe=["e"]), timeout=9)[0] == 200
    assert time.time() - begun < 5
    with pytest.raises(ConnectionClosed), socket(server, token(seconds=2, subscribe=["e"]), "/v1/channels/e/ws") as raw:
        raw.recv(timeout=5)
    assert raw.close_code == 4004


def test_a_socket_goes_on_with_a_new_token(server):
    with socket(server, token(seconds=2, subscribe=["r", "s"])) as member:
        say(member, type="subscribe", channel="r")
        say(member, type="subscribe", channel="s")
        assert receive(member)["type"] == "expired"
        assert say(member, type="refresh", token="nonsense", id=1)["code"] == "unauthenticated"
        assert say(member, type="refresh", token=token("bob"), id=2)["code"] == "forbidden"
        renewed = say(member, type="refresh", token=token(seconds=60, subscribe=["r"]), id=3)
        assert renewed["type"] == "refreshed" and renewed["id"] == 3 and renewed["expires_at"].endswith("Z")
        # The new token does not name the other channel any more.
        assert receive(member)["code"] == "forbidden"
        assert receive(member) == {"type": "unsubscribed", "channel": "s"}
        time.sleep(1.5)
        publish(server, "s", "not for us")
        publish(server, "r", "still here")
        assert receive(member)["data"] == "still here"


def test_only_the_application_deletes(server):
    publish(server, "d", "x")
    path = "/v1/channels/d"
    assert code(ask(server, "DELETE", path, token(subscribe=["*"], publish=["*"]))) == (403, "forbidden")
    assert code(ask(server, "DELETE", path)) == (403, "forbidden")
    assert ask(server, "DELETE", path, ADMIN_KEY)[0] == 204
    assert code(ask(server, "DELETE", path, ADMIN_KEY + "x")) == (401, "unauthenticated")


def test_the_command_line_shows_its_token(server, tmp_path):
    path = tmp_path / "token"
    path.write_text(token(subscribe=["cli"], publish=["cli"]) + "\n")

    def run(*arguments, environment=None, expected=0):
        command = [BINARY, *arguments, "--url", f"http://{server.address}"]
        done = subprocess.run(command, env=environment or {}, capture_output=True, text=True, timeout=20)
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr

    run("pub", "cli", "hello", "--token-file", path)
    for transport in ["ws", "sse", "long-poll", "poll"]:
        text = run("sub", "cli", "--transport", transport, "--since", "earliest", "--count", "1", "--token-file", path)
        assert "hello" in text
    assert "hello" in run("history", "cli", environment={"TIDEWIRE_TOKEN": path.read_text()})
    assert "unauthenticated" in run("pub", "cli", "hello", "--retry-for", "0", expected=1)
    assert "forbidden" in run("pub", "other", "hello", "--retry-for", "0", "--token-file", path, expected=1)
