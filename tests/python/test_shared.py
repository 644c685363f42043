"""Servers that share a Redis know each other's tickets, and each is good once on all of them together. Must not know how a
ticket is made.
"""

import threading

import pytest

from broker import Redis
from conftest import Server
from pebble import eventually
from test_access import ask

KEY = "k" * 32


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    running = Redis(tmp_path_factory.mktemp("redis"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def servers(redis, tmp_path_factory):
    running = []
    for _ in range(2):
        directory = tmp_path_factory.mktemp("shared")
        (directory / "key").write_text(KEY)
        config = f'backplane = "{redis.url}"\nlimits.backplane_timeout_ms = 500\nauth.admin_key_file = "key"\n'
        running.append(Server(directory, config, warns=True))
    yield running
    for server in running:
        server.stop()


def ticket(server, channel="a", may="subscribe&may=history"):
    status, _, answer = ask(server, "POST", f"/v1/admin/tickets?channel={channel}&may={may}", KEY)
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
