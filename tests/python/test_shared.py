"""Servers that share a Redis: a ticket is good once on all of them together, and whom the application sends away on one is
sent away on all. Must not know how they tell each other.
"""

import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

from broker import Redis
from conftest import Server
from pebble import eventually
from test_access import ADMIN_KEY, ask, code, publish, say, socket, token
from test_admin import CONFIG, user_path, write_keys


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    running = Redis(tmp_path_factory.mktemp("redis"))
    yield running
    running.kill()


def start(directory, redis):
    write_keys(directory)
    return Server(directory, f'backplane = "{redis.url}"\nlimits.backplane_timeout_ms = 500\n{CONFIG}', warns=True)


@pytest.fixture(scope="module")
def servers(redis, tmp_path_factory):
    running = []
    for _ in range(2):
        directory = tmp_path_factory.mktemp("shared")
        running.append(start(directory, redis))
    yield running
    for server in running:
        server.stop()


def ticket(server, channel="a", may="subscribe&may=history"):
    status, _, answer = ask(server, "POST", f"/v1/admin/tickets?channel={channel}&may={may}", ADMIN_KEY)
    assert status == 201, answer
    return answer["ticket"]


def spend(server, text, channel="a"):
    return ask(server, "GET", f"/v1/channels/{channel}/events?ticket={text}")[0]


@pytest.mark.parametrize("issuer, first, then", [(0, 1, 0), (0, 1, 1), (1, 1, 0), (0, 0, 0)])
def test_a_ticket_is_good_on_every_server_and_once(servers, issuer, first, then):
    text = ticket(servers[issuer])
    assert spend(servers[first], text) == 200
    assert spend(servers[then], text) == 401


def test_it_grants_what_it_was_made_for_and_nothing_else(servers):
    assert spend(servers[1], ticket(servers[0], "b"), "a") == 403
    assert spend(servers[1], ticket(servers[0], "a", "publish"), "a") == 403


def test_of_many_who_come_at_once_to_all_servers_one_has_it(servers):
    for _ in range(20):
        text, start, said = ticket(servers[0]), threading.Barrier(6), []

        def come(server):
            start.wait()
            said.append(spend(server, text))

        threads = [threading.Thread(target=come, args=[servers[number % 2]]) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(said) == [200, 401, 401, 401, 401, 401]


def test_what_is_no_ticket_is_refused(servers):
    good = ticket(servers[0])
    for text in ["a", good[:-4], good[:-4] + "AAAA", "A" * len(good), good + good, "A" * 4000]:
        assert spend(servers[1], text) == 401, text
    assert spend(servers[1], good) == 200


def send_away(server, user, verb):
    return ask(server, "POST", user_path(user, verb), ADMIN_KEY)[0]


@pytest.mark.parametrize("verb, close", [("/disconnect", (4004, "disconnected")), ("/revoke", (4005, "revoked"))])
def test_whom_one_server_sends_away_all_do(servers, verb, close):
    user = f"u {verb}"
    with socket(servers[0], token(user)) as one, socket(servers[1], token(user)) as two:
        with socket(servers[1], token("other")) as other:
            assert send_away(servers[0], user, verb) == 200
            for each in [one, two]:
                with pytest.raises(ConnectionClosed):
                    each.recv(timeout=5)
                assert each.close_reason == close[1]
            assert say(other, type="ping")["type"] == "pong"


def test_revoked_tokens_are_good_on_no_server_nor_on_one_that_comes_later(servers, redis, tmp_path):
    key, others = token("gus"), token("hal")
    assert publish(servers[1], "g", "x", key)[0] == 201
    assert send_away(servers[0], "gus", "/revoke") == 200
    eventually(lambda: code(publish(servers[1], "g", "x", key)) == (401, "unauthenticated"), 5)
    assert code(publish(servers[0], "g", "x", key)) == (401, "unauthenticated")
    later = start(tmp_path, redis)
    assert code(publish(later, "g", "x", key)) == (401, "unauthenticated")
    for server in [*servers, later]:
        assert publish(server, "g", "x", others)[0] == 201
    # Tokens tell their second only, so one of the same second is refused as well.
    time.sleep(1.1)
    assert publish(later, "g", "x", token("gus"))[0] == 201
    later.stop()


def test_a_server_that_was_cut_off_hears_of_it_later(servers, redis):
    key = token("ida")
    assert publish(servers[1], "g", "x", key)[0] == 201
    redis.kill()
    eventually(lambda: send_away(servers[0], "ida", "/revoke") == 503)
    redis.start()
    eventually(lambda: send_away(servers[0], "ida", "/revoke") == 200)
    eventually(lambda: publish(servers[1], "g", "x", key)[0] == 401)


def test_while_the_redis_is_away_nobody_knows_whether_a_ticket_is_good(servers, redis):
    text = ticket(servers[0])
    redis.kill()
    try:
        status, headers, answer = ask(servers[1], "GET", f"/v1/channels/a/events?ticket={text}")
        assert (status, answer["code"]) == (503, "backplane_unavailable")
        assert headers["Retry-After"]
    finally:
        redis.start()
    said = []
    eventually(lambda: said.append(spend(servers[1], text)) or said[-1] != 503)
    assert said[-1] == 200
