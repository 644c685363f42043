"""The admin API: who is there, sending them away, and tokens that are no longer good."""

import json
import time
import urllib.parse

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from conftest import Server
from test_access import ADMIN_KEY, SECRET, ask, code, publish, receive, say, socket, stream, token


def write_keys(directory):
    for name, text in [("secret", SECRET), ("admin.key", ADMIN_KEY)]:
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)


CONFIG = """
shards = 2
auth.admin_key_file = "admin.key"
rights.subscribe = "authenticated"
rights.publish = "authenticated"
[[auth.issuers]]
secret_file = "secret"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("admin")
    write_keys(directory)
    running = Server(directory, CONFIG)
    yield running
    running.stop()


def user_path(user, verb=""):
    return f"/v1/admin/users/{urllib.parse.quote(user, safe='')}{verb}"


def test_only_the_admin_key_opens_it(server):
    for method, path in [("GET", "/v1/admin/users"), ("GET", user_path("a")), ("POST", user_path("a", "/revoke")),
                         ("POST", user_path("a", "/disconnect"))]:
        assert code(ask(server, method, path)) == (401, "unauthenticated")
        assert code(ask(server, method, path, token("root", subscribe=["*"]))) == (403, "forbidden")
        assert ask(server, method, path, ADMIN_KEY)[0] == 200
    assert ask(server, "GET", user_path("a", "/revoke"), ADMIN_KEY)[0] == 405
    assert ask(server, "GET", user_path("a", "/other"), ADMIN_KEY)[0] == 404
    assert ask(server, "GET", "/v1/admin/users?limit=0", ADMIN_KEY)[0] == 400


def test_who_is_there(server):
    names = ["ann", "bob", "c/d é:%"]
    held = [socket(server, token(name)) for name in names] + [socket(server, token("ann"))]
    say(held[0], type="subscribe", channel="x")
    status, headers, page = ask(server, "GET", "/v1/admin/users", ADMIN_KEY)
    assert headers["Cache-Control"] == "no-store"
    seen = {user["user"]: (user["connections"], user["subscriptions"]) for user in page["users"]}
    assert seen == {"ann": (2, 1), "bob": (1, 0), "c/d é:%": (1, 0)} and page["count"] == 3 and not page["more"]
    page = ask(server, "GET", "/v1/admin/users?limit=1&after=ann", ADMIN_KEY)[2]
    assert [user["user"] for user in page["users"]] == ["bob"] and page["more"]
    user = ask(server, "GET", user_path("c/d é:%"), ADMIN_KEY)[2]
    assert user["user"] == "c/d é:%" and user["connections"][0]["transport"] == "websocket"
    [one.close() for one in held]
    deadline = time.time() + 5
    while ask(server, "GET", "/v1/admin/users", ADMIN_KEY)[2]["count"] > 0:
        assert time.time() < deadline


def test_all_streams_of_a_user_end_at_once(server):
    key = token("eve", publish=["e"], subscribe=["e"])
    sockets = [socket(server, key) for _ in range(4)]
    connection, answer = stream(server, "/v1/channels/e/events", key)
    other = socket(server, token("fay"))
    begun = time.time()
    assert ask(server, "POST", user_path("eve", "/disconnect"), ADMIN_KEY)[2] == {
        "user": "eve", "connections": 5, "servers_told": 0}
    for one in sockets:
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=5)
        assert (one.close_code, one.close_reason) == (4006, "disconnected")
    assert b"tidewire.reconnect" in answer.read()
    assert time.time() - begun < 2
    connection.close()
    assert say(other, type="ping")["type"] == "pong"
    other.close()
    # They may come back with the same token.
    with socket(server, key) as again:
        assert say(again, type="subscribe", channel="e")["type"] == "subscribed"


def test_revoked_tokens_are_not_good_any_more(server):
    key = token("gus")
    ticket = ask(server, "POST", "/v1/tickets", key)[2]["ticket"]
    connection, answer = stream(server, "/v1/channels/g/events", key)
    with socket(server, key) as one:
        outcome = ask(server, "POST", user_path("gus", "/revoke"), ADMIN_KEY)[2]
        assert outcome["connections"] == 2 and outcome["revoked_at"].endswith("Z")
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=5)
        assert (one.close_code, one.close_reason) == (4005, "revoked")
    assert b"tidewire.reconnect" not in answer.read()
    connection.close()
    assert code(publish(server, "g", "x", key)) == (401, "unauthenticated")
    assert code(ask(server, "GET", f"/v1/channels/g/events?ticket={ticket}")) == (401, "unauthenticated")
    with pytest.raises(InvalidStatus), socket(server, key):
        pass
    assert publish(server, "g", "x", token("hal"))[0] == 201
    # Tokens tell their second only, so one of the same second is refused as well.
    time.sleep(1.1)
    assert publish(server, "g", "x", token("gus"))[0] == 201


def test_revocations_outlive_a_restart(tmp_path):
    write_keys(tmp_path)
    running = Server(tmp_path, CONFIG, data=tmp_path / "data")
    key = token("ida")
    assert publish(running, "i", "x", key)[0] == 201
    assert ask(running, "POST", user_path("ida", "/revoke"), ADMIN_KEY)[0] == 200
    running.process.kill()
    running.process.wait()
    running = Server(tmp_path, CONFIG, data=tmp_path / "data")
    assert code(publish(running, "i", "x", key)) == (401, "unauthenticated")
    running.stop()


def test_a_port_of_its_own(tmp_path):
    write_keys(tmp_path)
    running = Server(tmp_path, 'admin.listen = "127.0.0.1:0"\nlimits.connections = 4\n' + CONFIG)
    admin = type("Admin", (), {"host": running.host, "port": int(running.process.stdout.readline().rsplit(":", 1)[1])})
    for path in ["/v1/admin/users", "/metrics"]:
        assert ask(running, "GET", path, ADMIN_KEY)[0] == 404
        assert ask(admin, "GET", path, ADMIN_KEY)[0] == 200
    # Events are there for the admin key, whose page tries things out, and for nobody else.
    assert ask(admin, "GET", "/v1/channels/a/events")[0] == 404
    assert ask(admin, "GET", "/v1/channels/a/events", token("ann"))[0] == 404
    assert code(ask(admin, "GET", "/v1/admin/users")) == (401, "unauthenticated")
    # It is there when the server is full.
    held = [socket(running, token("ann")) for _ in range(4)]
    assert ask(running, "GET", "/healthz")[0] == 503
    assert ask(admin, "POST", user_path("ann", "/disconnect"), ADMIN_KEY)[2]["connections"] == 4
    for one in held:
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=5)
    running.stop()
