"""Who is present: joins once, is seen by those who may, and leaves when nothing holds them, however they went."""

import json
import socket as sockets
import time

import pytest
from websockets.exceptions import ConnectionClosed

from conftest import Server
from test_access import ADMIN_KEY, SECRET, ask, code, publish, receive, say, socket, stream, token

CONFIG = """

[rights]
subscribe = "granted"

[limits]
presence_grace_ms = 1500
presence_ms = 2000
member_bytes = 100
state_keys = 20

[[channels]]
pattern = "hall:*"
rights.presence = "authenticated"

[auth]
admin_key_file = "admin"

[[auth.issuers]]
secret_file = "secret"
"""
ROOM = {"subscribe": ["chat:*"], "publish": ["chat:*"], "presence": ["chat:*"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("presence")
    for name, secret in [("admin", ADMIN_KEY), ("secret", SECRET)]:
        (directory / name).write_text(secret)
        (directory / name).chmod(0o600)
    running = Server(directory, CONFIG)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One where everybody may everything."""
    running = Server(tmp_path_factory.mktemp("open"), "limits.presence_grace_ms = 200\nlimits.channels_per_connection = 3\n")
    yield running
    running.stop()


def watch(server, room, key=ADMIN_KEY):
    """Who is there, as a set, and the socket on which to hear of more."""
    one = socket(server, key)
    assert say(one, type="subscribe", channel=f"tidewire.presence:{room}", snapshot=True)["type"] == "subscribed"
    return {event["key"] for event in receive(one)["state"]}, one


def next_of(watcher):
    event = receive(watcher)
    assert event["type"] == "event", event
    return event["event"], event["key"], event["data"]


def members(server, room, key=ADMIN_KEY):
    status, _, body = ask(server, "GET", f"/v1/channels/{room}/presence", key)
    assert status == 200, body
    return {event["key"]: event["data"] for event in body["state"]}


def enter(server, room, user, **message):
    one = socket(server, token(user, **ROOM))
    entered = say(one, type="enter", channel=room, **message)
    assert entered["type"] == "entered", entered
    return one


def test_who_comes_and_goes_is_seen(server):
    there, watcher = watch(server, "chat:1")
    assert there == set()
    with watcher:
        ann = socket(server, token("ann", **ROOM))
        entered = say(ann, type="enter", channel="chat:1", data={"name": "Ann"}, id=7)
        assert (entered["member"], entered["id"]) == ("ann", 7)
        shown = {"member": "ann", "since": entered["since"], "data": {"name": "Ann"}}
        assert next_of(watcher) == ("join", "ann", shown)
        bob = enter(server, "chat:1", "bob")
        assert next_of(watcher)[:2] == ("join", "bob")
        assert members(server, "chat:1") == {"ann": shown, "bob": {"member": "bob", "since": members(server, "chat:1")["bob"]["since"], "data": None}}
        # The same again says nothing new; something else does.
        assert say(ann, type="enter", channel="chat:1", data={"name": "Ann"})["since"] == entered["since"]
        assert say(ann, type="enter", channel="chat:1", data={"name": "Anne"})["since"] == entered["since"]
        assert next_of(watcher) == ("update", "ann", {**shown, "data": {"name": "Anne"}})
        assert say(ann, type="leave", channel="chat:1", id="x") == {"type": "left", "channel": "chat:1", "id": "x"}
        assert next_of(watcher) == ("leave", "ann", None)
        assert say(ann, type="leave", channel="chat:1") == {"type": "left", "channel": "chat:1"}
        began = time.monotonic()
        bob.close()
        assert next_of(watcher) == ("leave", "bob", None)
        assert time.monotonic() - began > 1.4
        ann.close()
    assert members(server, "chat:1") == {}


def test_several_tabs_are_one_member_and_a_reconnect_goes_unnoticed(server):
    there, watcher = watch(server, "chat:tabs")
    with watcher:
        tabs = [enter(server, "chat:tabs", "ann", data=1) for _ in range(3)]
        assert next_of(watcher)[:2] == ("join", "ann")
        for tab in tabs:
            # Not even a goodbye.
            tab.socket.shutdown(sockets.SHUT_RDWR)
        back = enter(server, "chat:tabs", "ann", data=1)
        time.sleep(2.7)  # longer than anybody who is gone is kept
        assert set(members(server, "chat:tabs")) == {"ann"}
        assert say(back, type="leave", channel="chat:tabs")["type"] == "left"
        assert next_of(watcher) == ("leave", "ann", None)
        back.close()


def test_by_requests_and_for_some_time(server):
    key = token("cat", **ROOM)
    path = "/v1/channels/chat:http/presence?instance=tab-1"
    there, watcher = watch(server, "chat:http")
    with watcher:
        status, _, body = ask(server, "POST", path, key, '{"name":"Cat"}')
        assert (status, body["member"], body["expires_in_ms"]) == (200, "cat", 2000)
        assert next_of(watcher)[2]["data"] == {"name": "Cat"}
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert ask(server, "POST", path, key, '{"name":"Cat"}')[2]["since"] == body["since"]
            time.sleep(0.5)
        assert next_of(watcher) == ("leave", "cat", None)
        # Both kinds at once, and each lets go of its own.
        with enter(server, "chat:http", "cat") as one:
            assert next_of(watcher)[0] == "join"
            assert ask(server, "POST", path, key)[0] == 200
            assert say(one, type="leave", channel="chat:http")["type"] == "left"
            assert set(members(server, "chat:http")) == {"cat"}
            assert ask(server, "DELETE", path, key)[0] == 204
            assert next_of(watcher)[0] == "leave"
            assert ask(server, "DELETE", path, key)[0] == 204


def test_presence_is_a_channel_on_every_transport(server):
    key = ADMIN_KEY
    connection, answer = stream(server, "/v1/events?channel=tidewire.presence:chat:sse", key)
    status, _, polled = ask(server, "GET", "/v1/channels/tidewire.presence:chat:sse/events?since=latest", key)
    with enter(server, "chat:sse", "dan", data=[1]):
        lines = []
        while not any(line.startswith(b"data: ") for line in lines):
            lines.append(answer.readline())
        event = json.loads(lines[-1][6:])
        assert b"event: join\n" in lines and (event["key"], event["data"]["data"]) == ("dan", [1])
        path = f"/v1/channels/tidewire.presence:chat:sse/events?since={polled['cursor']}&wait=5"
        assert [event["key"] for event in ask(server, "GET", path, key)[2]["events"]] == ["dan"]
        assert ask(server, "GET", "/v1/channels/tidewire.presence:chat:sse", key)[2]["state"][0]["key"] == "dan"
    connection.close()


def test_rights(server):
    url = "/v1/channels/chat:1/presence"
    silent = token("eve", subscribe=["*"], history=["*"], publish=["*"])
    for key, expected in [(None, (401, "unauthenticated")), (silent, (403, "forbidden"))]:
        assert code(ask(server, "GET", url, key)) == expected
        assert code(ask(server, "POST", url + "?instance=a", key, "1")) == expected
        assert code(ask(server, "DELETE", url + "?instance=a", key)) == expected
        assert code(ask(server, "GET", "/v1/channels/tidewire.presence:chat:1/events", key)) == expected
    with socket(server, silent) as one:
        assert say(one, type="enter", channel="chat:1")["code"] == "forbidden"
        assert say(one, type="subscribe", channel="tidewire.presence:chat:1")["code"] == "forbidden"
        # The rule says who may; the token says nothing against it.
        assert say(one, type="enter", channel="hall:1")["member"] == "eve"
        assert say(one, type="subscribe", channel="tidewire.presence:hall:1")["type"] == "subscribed"
    key = token("eve", **ROOM)
    with socket(server, key) as one:
        assert say(one, type="enter", channel="chat:1", member="ann")["code"] == "forbidden"
        assert say(one, type="publish", channel="tidewire.presence:chat:1", data=1)["code"] == "forbidden"
        assert say(one, type="enter", channel="tidewire.admin:statistics")["code"] == "forbidden"
    assert code(ask(server, "POST", url + "?instance=a&member=ann", key)) == (403, "forbidden")
    assert code(publish(server, "tidewire.presence:chat:1", "x")) == (403, "forbidden")
    assert code(ask(server, "DELETE", "/v1/channels/tidewire.presence:chat:1", ADMIN_KEY)) == (403, "forbidden")
    # The application speaks for anybody.
    assert ask(server, "POST", "/v1/channels/chat:app/presence?instance=a&member=fay", ADMIN_KEY)[2]["member"] == "fay"


def test_a_refreshed_token_without_the_right_ends_it(server):
    there, watcher = watch(server, "chat:refresh")
    with watcher, enter(server, "chat:refresh", "gil") as one:
        assert next_of(watcher)[0] == "join"
        assert say(one, type="refresh", token=token("gil", subscribe=["chat:*"]))["type"] == "refreshed"
        assert receive(one)["code"] == "forbidden"
        assert receive(one) == {"type": "left", "channel": "chat:refresh"}
        assert next_of(watcher) == ("leave", "gil", None)


def test_whoever_is_revoked_leaves(server):
    there, watcher = watch(server, "chat:revoked")
    with watcher:
        one = enter(server, "chat:revoked", "hal")
        assert next_of(watcher)[0] == "join"
        assert ask(server, "POST", "/v1/admin/users/hal/disconnect", ADMIN_KEY)[0] == 200
        with pytest.raises(ConnectionClosed):
            receive(one)
        assert next_of(watcher) == ("leave", "hal", None)


def test_bad_input_says_what_would_be_right(server, opened):
    url = "/v1/channels/chat:1/presence"
    key = token("ann", **ROOM)
    for path, body, expected in [
        (url, "1", (400, "invalid_parameter")),
        (url + "?instance=", "1", (400, "invalid_parameter")),
        (url + "?instance=" + "x" * 65, "1", (400, "invalid_parameter")),
        (url + "?instance=a&instance=b", "1", (400, "invalid_parameter")),
        (url + "?instance=a&ttl=1", "1", (400, "invalid_parameter")),
        (url + "?instance=a", "{", (400, "invalid_json")),
        (url + "?instance=a", '1},{"member":"bob"', (400, "invalid_json")),
        (url + "?instance=a", json.dumps("x" * 99), (413, "payload_too_large")),
        ("/v1/channels/" + "c" * 183 + "/presence?instance=a", "1", (403, "forbidden")),
    ]:
        assert code(ask(server, "POST", path, key, body)) == expected, path
    assert code(ask(opened, "POST", "/v1/channels/" + "c" * 183 + "/presence?instance=a&member=a")) == (400, "invalid_channel")
    assert code(ask(opened, "GET", "/v1/channels/" + "c" * 183 + "/presence")) == (400, "invalid_channel")
    assert code(ask(opened, "POST", "/v1/channels/a/presence?instance=a")) == (400, "invalid_parameter")
    assert code(ask(opened, "POST", "/v1/channels/a/presence?instance=a&member=" + "m" * 257)) == (400, "invalid_parameter")
    with socket(opened) as one:
        assert say(one, type="enter", channel="a")["code"] == "invalid_message"
        assert say(one, type="enter", channel="a", member="")["code"] == "invalid_message"
        assert say(one, type="enter", channel="a", member=5)["code"] == "invalid_message"
        assert say(one, type="enter", channel="a b", member="x")["code"] == "invalid_channel"
        assert say(one, type="enter", channel="c" * 183, member="x")["code"] == "invalid_channel"


def test_all_of_it_is_bounded(server, opened):
    # Members of a channel, and what holds one member.
    for number in range(20):
        path = f"/v1/channels/chat:full/presence?instance=a&member=m{number}"
        assert ask(server, "POST", path, ADMIN_KEY)[0] == 200
    full = ask(server, "POST", "/v1/channels/chat:full/presence?instance=a&member=late", ADMIN_KEY)
    assert code(full) == (507, "state_full")
    for number in range(64):
        assert ask(server, "POST", f"/v1/channels/chat:many/presence?instance={number}&member=m", ADMIN_KEY)[0] == 200
    many = ask(server, "POST", "/v1/channels/chat:many/presence?instance=64&member=m", ADMIN_KEY)
    assert code(many) == (429, "too_many_requests")
    # Channels of a connection. Another member takes the place of the one before.
    there, watcher = watch(opened, "a", None)
    with watcher, socket(opened) as one:
        for channel in ["a", "b", "c"]:
            assert say(one, type="enter", channel=channel, member="x")["type"] == "entered"
        assert say(one, type="enter", channel="d", member="x")["code"] == "too_many_channels"
        assert say(one, type="enter", channel="a", member="y")["member"] == "y"
        assert [next_of(watcher)[:2] for _ in range(3)] == [("join", "x"), ("leave", "x"), ("join", "y")]


def test_many_come_and_go_at_once_and_nobody_stays(opened):
    there, watcher = watch(opened, "crowd", None)
    with watcher:
        crowd = [socket(opened) for _ in range(100)]
        for number, one in enumerate(crowd):
            assert say(one, type="enter", channel="crowd", member=f"m{number % 50}")["type"] == "entered"
        for one in crowd:
            one.socket.shutdown(sockets.SHUT_RDWR)
        seen = [next_of(watcher)[:2] for _ in range(100)]
        assert sorted(seen[:50]) == sorted(("join", f"m{number}") for number in range(50))
        assert sorted(seen[50:]) == sorted(("leave", f"m{number}") for number in range(50))
    assert members(opened, "crowd", None) == {}
    text = ask(opened, "GET", "/metrics")[2].decode()
    # Those of other tests may be on their way out.
    assert int(next(line.split()[1] for line in text.splitlines() if line.startswith("tidewire_present_members "))) < 50
