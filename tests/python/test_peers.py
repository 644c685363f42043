"""What servers that share a Redis know of one another: who is present, how many connections a user has, how each stands;
also where one is killed, cut off, drains or comes later. Must not know how they tell each other.
"""

import contextlib
import json
import random
import socket as sockets
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from broker import Redis
from conftest import Server
from pebble import eventually
from test_access import ADMIN_KEY, ask, code, receive, say, socket, token
from test_admin import user_path, write_keys
from test_admin_page import events_of, statistics
from test_metrics import samples
from test_presence import CONFIG as PRESENCE
from test_presence import ROOM, enter, members, watch

# How long a server that says nothing is known, and then some.
SILENCE_SECONDS = 5
CONFIG = PRESENCE.replace("presence_ms = 2000", "presence_ms = 60000").replace('"admin"', '"admin.key"') \
    .replace("[limits]", "[limits]\nbackplane_timeout_ms = 500\nconnections_per_user = 3\nsubscriptions_per_user = 4")


class Relay:
    """The way to a Redis, which can be cut."""

    def __init__(self, port):
        self.to, self.is_cut, self.open = port, False, []
        self.listener = sockets.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.listener.accept()
                if self.is_cut:
                    one.close()
                    continue
                other = sockets.create_connection(("127.0.0.1", self.to))
                self.open += [one, other]
                for ends in [(one, other), (other, one)]:
                    threading.Thread(target=self.copy, args=ends, daemon=True).start()

    def copy(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in [one, other]:
            with contextlib.suppress(OSError):
                end.shutdown(sockets.SHUT_RDWR)

    def cut(self):
        self.is_cut = True
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(sockets.SHUT_RDWR)
        self.open = []

    def mend(self):
        self.is_cut = False

    def close(self):
        self.cut()
        self.listener.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    running = Redis(tmp_path_factory.mktemp("redis"))
    yield running
    running.kill()


@pytest.fixture
def cluster(redis, tmp_path):
    """Starts servers that know one another, and stops those that are left."""
    running = []

    def start(url=None, config=CONFIG):
        directory = tmp_path / str(len(running))
        directory.mkdir()
        write_keys(directory)
        server = Server(directory, f'backplane = "{url or redis.url}"\n{config}', warns=True)
        running.append(server)
        alive = [one for one in running if one.process.poll() is None]
        for one in alive:
            eventually(lambda: {row["name"] for row in servers(one)} >= {name(other) for other in alive}, 10)
        return server

    yield start
    for server in running:
        if server.process.poll() is None:
            server.stop()


def next_of(watcher):
    """What is said next; that a server is gone takes longer than other tests wait."""
    event = json.loads(watcher.recv(timeout=3 * SILENCE_SECONDS))
    assert event["type"] == "event", event
    return event["event"], event["key"], event["data"]


def servers(server):
    status, _, body = ask(server, "GET", "/v1/admin/servers", ADMIN_KEY)
    assert status == 200, body
    return body["servers"]


def name(server):
    return f"{sockets.gethostname()}:{server.port}"


def everybody(all_of, room, expected):
    for server in all_of:
        eventually(lambda: set(members(server, room)) == expected, 3)


def test_who_is_present_on_one_server_is_seen_on_all_once(cluster):
    one, two, three = (cluster() for _ in range(3))
    watchers = [watch(server, "chat:1")[1] for server in [one, two, three]]
    ann = enter(one, "chat:1", "ann", data={"name": "Ann"})
    assert [next_of(watcher)[:2] for watcher in watchers] == [("join", "ann")] * 3
    shown = members(one, "chat:1")["ann"]
    assert [members(server, "chat:1")["ann"] for server in [two, three]] == [shown, shown]
    # The same member on other servers is nobody new; what it says last is shown by all.
    also = enter(two, "chat:1", "ann", data={"name": "Ann"})
    assert say(also, type="enter", channel="chat:1", data={"name": "Anne"})["since"] == shown["since"]
    changed = {**shown, "data": {"name": "Anne"}}
    assert [next_of(watcher) for watcher in watchers] == [("update", "ann", changed)] * 3
    bob = enter(three, "chat:1", "bob")
    assert [next_of(watcher)[:2] for watcher in watchers] == [("join", "bob")] * 3
    # It leaves with the last, whichever comes and goes first.
    assert say(also, type="leave", channel="chat:1")["type"] == "left"
    assert say(bob, type="leave", channel="chat:1")["type"] == "left"
    assert [next_of(watcher)[:2] for watcher in watchers] == [("leave", "bob")] * 3
    everybody([one, two, three], "chat:1", {"ann"})
    assert members(three, "chat:1")["ann"] == changed
    # One that comes later is told of all.
    later = cluster()
    everybody([later], "chat:1", {"ann"})
    assert members(later, "chat:1")["ann"] == changed
    ann.close()
    assert [next_of(watcher)[:2] for watcher in watchers] == [("leave", "ann")] * 3
    everybody([one, two, three, later], "chat:1", set())
    for each in [*watchers, also, bob]:
        each.close()


def test_a_reconnect_to_another_server_goes_unnoticed(cluster):
    one, two = cluster(), cluster()
    watchers = [watch(server, "chat:2")[1] for server in [one, two]]
    ann = enter(one, "chat:2", "ann", data=1)
    assert [next_of(watcher)[0] for watcher in watchers] == ["join"] * 2
    for number in range(4):
        ann.socket.shutdown(sockets.SHUT_RDWR)
        time.sleep(0.5)
        ann = enter([two, one][number % 2], "chat:2", "ann", data=1)
    time.sleep(2.5)  # longer than those are kept who are gone
    everybody([one, two], "chat:2", {"ann"})
    assert say(ann, type="leave", channel="chat:2")["type"] == "left"
    assert [next_of(watcher)[:2] for watcher in watchers] == [("leave", "ann")] * 2
    for each in [*watchers, ann]:
        each.close()


def test_requests_enter_on_one_server_and_leave_on_another(cluster):
    one, two = cluster(), cluster()
    key = token("cat", **ROOM)
    path = "/v1/channels/chat:3/presence?instance=tab-1"
    for enters, leaves in [(one, two), (two, one), (one, one)]:
        since = ask(enters, "POST", path, key, "1")[2]["since"]
        everybody([one, two], "chat:3", {"cat"})
        assert ask(leaves, "POST", path, key, "1")[2]["since"] == since
        assert ask(leaves, "DELETE", path, key)[0] == 204
        everybody([one, two], "chat:3", set())


def test_when_a_server_is_killed_its_members_leave_once_on_all_others(cluster):
    one, two, three = (cluster() for _ in range(3))
    watchers = [watch(server, "chat:4")[1] for server in [one, two]]
    crowd = [enter(three, "chat:4", f"m{number}", data=number) for number in range(8)]
    everybody([one, two], "chat:4", {f"m{number}" for number in range(8)})
    stays = enter(one, "chat:4", "m0", data=0)
    for watcher in watchers:
        assert {next_of(watcher)[:2] for _ in range(8)} == {("join", f"m{number}") for number in range(8)}
    three.process.kill()
    three.process.wait()
    back = enter(two, "chat:4", "m1", data=1)
    for watcher in watchers:
        assert {next_of(watcher)[:2] for _ in range(6)} == {("leave", f"m{number}") for number in range(2, 8)}
    everybody([one, two], "chat:4", {"m0", "m1"})
    assert {row["name"] for row in servers(one)} == {name(one), name(two)}
    for holder, member in [(stays, "m0"), (back, "m1")]:
        assert say(holder, type="leave", channel="chat:4")["type"] == "left"
        assert [next_of(watcher)[:2] for watcher in watchers] == [("leave", member)] * 2
    for each in [*watchers, *crowd, stays, back]:
        each.close()


def test_a_server_that_drains_says_goodbye_and_its_members_have_the_grace(cluster):
    one = cluster()
    two = cluster(config=CONFIG.replace("[limits]", "[limits]\ndrain_window_ms = 50"))
    watcher = watch(one, "chat:5")[1]
    ann, bob = enter(two, "chat:5", "ann"), enter(two, "chat:5", "bob")
    assert {next_of(watcher)[:2] for _ in range(2)} == {("join", "ann"), ("join", "bob")}
    two.process.terminate()
    eventually(lambda: any(row["draining"] for row in servers(one)) or two.process.poll() is not None, 5)
    for held in [ann, bob]:
        with pytest.raises(ConnectionClosed):
            while True:
                held.recv(timeout=5)
    back = enter(one, "chat:5", "ann")
    assert two.process.wait(10) == 0
    gone = time.monotonic()
    # At once, not when it has been silent for long.
    eventually(lambda: [row["name"] for row in servers(one)] == [name(one)], 1)
    assert next_of(watcher)[:2] == ("leave", "bob")
    assert time.monotonic() - gone < SILENCE_SECONDS - 1
    everybody([one], "chat:5", {"ann"})
    back.close()
    assert next_of(watcher)[:2] == ("leave", "ann")
    watcher.close()


def test_one_that_is_cut_off_is_gone_for_the_others_and_comes_back(cluster, redis):
    relay = Relay(redis.port)
    one, two = cluster(), cluster(relay.url)
    (_, at_one), (_, at_two) = watch(one, "chat:6"), watch(two, "chat:6")
    ann, bob = enter(one, "chat:6", "ann", data=1), enter(two, "chat:6", "bob", data=2)
    for watcher in [at_one, at_two]:
        assert {next_of(watcher)[:2] for _ in range(2)} == {("join", "ann"), ("join", "bob")}
    relay.cut()
    assert next_of(at_one)[:2] == ("leave", "bob")
    # The one that is cut off knows that it hears nobody: it does not say that they left.
    assert set(members(two, "chat:6")) == {"ann", "bob"}
    cat = enter(two, "chat:6", "cat", data=3)
    assert next_of(at_two)[:2] == ("join", "cat")
    assert say(ann, type="leave", channel="chat:6")["type"] == "left"
    assert next_of(at_one)[:2] == ("leave", "ann")
    relay.mend()
    assert {next_of(at_one)[:2] for _ in range(2)} == {("join", "bob"), ("join", "cat")}
    assert next_of(at_two)[:2] == ("leave", "ann")
    everybody([one, two], "chat:6", {"bob", "cat"})
    for each in [at_one, at_two, ann, bob, cat]:
        each.close()
    relay.close()


def test_while_the_redis_is_away_nobody_leaves_and_then_all_know_all(cluster, redis):
    one, two = cluster(), cluster()
    watchers = [watch(server, "chat:7")[1] for server in [one, two]]
    held = [enter(one, "chat:7", "ann"), enter(two, "chat:7", "bob")]
    for watcher in watchers:
        assert {next_of(watcher)[:2] for _ in range(2)} == {("join", "ann"), ("join", "bob")}
    redis.kill()
    try:
        held.append(enter(one, "chat:7", "cat"))
        time.sleep(SILENCE_SECONDS + 2)
    finally:
        redis.start()
    assert [next_of(watcher)[:2] for watcher in watchers] == [("join", "cat")] * 2
    everybody([one, two], "chat:7", {"ann", "bob", "cat"})
    for each in [*watchers, *held]:
        each.close()


def test_many_who_come_and_go_on_all_servers_at_once_are_seen_right_by_all(cluster):
    all_of = [cluster() for _ in range(3)]
    watchers = [watch(server, "chat:8")[1] for server in all_of]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    sockets_of = [[socket(server, ADMIN_KEY) for _ in range(3)] for server in all_of]
    here = [[set() for _ in range(3)] for _ in all_of]
    for number in range(300):
        server, which, member = chance.randrange(3), chance.randrange(3), f"m{chance.randrange(6)}"
        one, entered = sockets_of[server][which], here[server][which]
        if member in entered or entered and chance.random() < 0.3:
            assert say(one, type="leave", channel="chat:8")["type"] == "left"
            entered.clear()
        else:
            answer = say(one, type="enter", channel="chat:8", member=member, data=chance.randrange(3))
            assert answer["type"] == "entered", answer
            entered.clear()  # another takes its place
            entered.add(member)
        time.sleep(chance.choice([0, 0, 0, 0.02, 0.1]))
    expected = set().union(*(members_of for server in here for members_of in server))
    everybody(all_of, "chat:8", expected)
    time.sleep(2.5)  # what nobody says any more is shown for a second, until the next look
    shown = [members(server, "chat:8") for server in all_of]
    assert shown[0] == shown[1] == shown[2]
    # Each server's readers saw joins and leaves in turn, and what they made of it is what is so.
    for watcher, seen in zip(watchers, shown):
        table = {}
        with contextlib.suppress(TimeoutError):
            while True:
                event = json.loads(watcher.recv(timeout=0.5))
                is_known = event["key"] in table
                assert is_known == (event["event"] != "join"), event
                if event["event"] == "leave":
                    del table[event["key"]]
                else:
                    table[event["key"]] = event["data"]
        assert table == seen
    for each in [*watchers, *(one for server in sockets_of for one in server)]:
        each.close()


def test_limits_of_a_user_are_for_all_servers_together(cluster):
    one, two = cluster(), cluster()
    held = [socket(one, token("dan", **ROOM)) for _ in range(2)] + [socket(two, token("dan", **ROOM))]

    def is_full(server):
        try:
            with socket(server, token("dan", **ROOM)):
                return False
        except InvalidStatus as refused:
            assert refused.response.status_code == 429
            return True

    for server in [one, two]:
        eventually(lambda: is_full(server), 5)
    # Four subscriptions of all of their connections.
    for number in range(4):
        assert say(held[number % 3], type="subscribe", channel=f"chat:{number}")["type"] == "subscribed"
    time.sleep(0.5)  # what comes sooner is let in
    for each in held:
        eventually(lambda: say(each, type="subscribe", channel="chat:9").get("code") == "too_many_requests", 3)
    assert say(held[0], type="unsubscribe", channel="chat:0")["type"] == "unsubscribed"
    eventually(lambda: say(held[2], type="subscribe", channel="chat:9")["type"] == "subscribed", 3)
    # When some go on one server, there is room on the other.
    held[0].close()
    eventually(lambda: not is_full(two), 5)
    for each in held:
        each.close()


def test_an_address_is_counted_on_all_servers(cluster):
    config = CONFIG.replace("[limits]", "[limits]\nconnections_per_ip = 8")
    one, two = cluster(config=config), cluster(config=config)
    held = [sockets.create_connection((server.host, server.port)) for server in [one] * 4 + [two] * 2]
    time.sleep(0.5)

    def is_let_in(server):
        with sockets.create_connection((server.host, server.port)) as more:
            more.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                return b"200" in more.recv(100)
            return False

    assert is_let_in(one)
    more = [sockets.create_connection((two.host, two.port)) for _ in range(2)]
    eventually(lambda: not is_let_in(one) and not is_let_in(two), 3)
    [each.close() for each in more]
    eventually(lambda: is_let_in(one) and is_let_in(two), 3)
    [each.close() for each in held]


def test_one_server_shows_all(cluster, redis):
    one, two = cluster(), cluster()
    assert {row["name"] for row in servers(one)} == {name(one), name(two)}
    assert [row["is_this"] for row in servers(one) if row["name"] == name(one)] == [True]
    held = [socket(two, token(f"u{number}", **ROOM)) for number in range(5)]
    connection, answer = statistics(one)

    def shown(is_right):
        for _, seen in events_of(answer, 6):
            rows = {row["name"]: row for row in seen["servers"]}
            if is_right(rows, seen["cluster"]):
                return True
        return False

    assert shown(lambda rows, sums: rows[name(two)]["connections"] == 5 and sums["servers"] == 2)
    assert shown(lambda rows, sums: sums["connections"] == sum(row["connections"] for row in rows.values()))
    for number in range(30):
        assert ask(two, "POST", f"/v1/channels/chat:{number}/events", ADMIN_KEY, "x")[0] == 201
    assert shown(lambda rows, sums: rows[name(two)]["published"] == 30 and rows[name(one)]["published"] == 0)
    row = next(row for row in servers(one) if row["name"] == name(two))
    assert row["memory_bytes"] > 1 << 20 and row["cpu"] is not None and row["version"] == "0.1.0"
    assert row["is_whole"] and not row["backplane_away"] and row["heard_ms_ago"] < 3_000
    connection.close()
    # How many were told, as only they know how many connections they end.
    assert ask(one, "POST", user_path("u1", "/disconnect"), ADMIN_KEY)[2] == {
        "user": "u1", "connections": 0, "servers_told": 1}
    with pytest.raises(ConnectionClosed):
        receive(held[1])
    metrics = samples(one)
    assert metrics[("tidewire_servers",)] == 2
    assert metrics[("tidewire_peers_oldest_seconds",)] < 3
    for way in ["sent", "heard"]:
        assert metrics[("tidewire_peers_messages_total", ("way", way))] > 0
        assert metrics[("tidewire_peers_bytes_total", ("way", way))] > 100
    for each in held:
        each.close()


def test_a_server_of_its_own_shows_itself(tmp_path):
    write_keys(tmp_path)
    alone = Server(tmp_path, CONFIG)
    [row], sums = servers(alone), ask(alone, "GET", "/v1/admin/servers", ADMIN_KEY)[2]["cluster"]
    assert (row["name"], sums["servers"]) == (name(alone), 1)
    assert code(ask(alone, "GET", "/v1/admin/servers", token("ann"))) == (403, "forbidden")
    assert code(ask(alone, "GET", "/v1/admin/servers?a=b", ADMIN_KEY)) == (400, "invalid_parameter")
    alone.stop()
