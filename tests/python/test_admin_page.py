"""What only the admin key opens: the server's own channel, the list of channels, tickets for one channel, and the
page's port. Must not know how the page looks."""

import json
import urllib.parse

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import Server
from test_access import ADMIN_KEY, ask, code, publish, receive, say, socket, stream, token
from test_admin import CONFIG, write_keys

OWN = "tidewire.admin:statistics"
EVERYTHING = {"subscribe": ["*"], "history": ["*"], "publish": ["*"]}
WRONG = [None, "not the admin key at all", token("root", seconds=3600, **EVERYTHING)]  # made before other tests run
# Whatever the configuration opens, the server's own channels are not part of it.
OPEN = CONFIG.replace('"authenticated"', '"anyone"') + """
[[channels]]
pattern = "tidewire.admin:*"
rights.subscribe = "anyone"
rights.history = "anyone"
rights.publish = "anyone"
[[channels]]
pattern = "closed:*"
rights.subscribe = "nobody"
rights.publish = "nobody"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    write_keys(directory)
    running = Server(directory, OPEN)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A server whose admin API has a port of its own; that port as a server."""
    directory = tmp_path_factory.mktemp("apart")
    write_keys(directory)
    running = Server(directory, OPEN + "[admin]\nlisten = \"127.0.0.1:0\"\n")
    line = running.process.stdout.readline()
    assert line.startswith("the admin API is at http://"), line
    yield running, At(line.split("//")[1].strip())
    running.stop()


class At:
    def __init__(self, address):
        self.address = address
        self.host, port = address.split(":")
        self.port = int(port)


def statistics(server, path="/v1/admin/statistics", **headers):
    connection, answer = stream(server, path, ADMIN_KEY, **headers)
    assert answer.status == 200
    return connection, answer


def events_of(answer, count=1):
    """The next statistics of a stream, with their ids."""
    found, data, name = [], "", ""
    while len(found) < count:
        line = answer.readline().decode().rstrip("\n")
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = value
        elif field == "id" and name == "statistics":
            found.append((value, json.loads(data)))
            name = ""
    return found


@pytest.mark.parametrize("key", WRONG)
def test_the_servers_own_channel_is_closed_over_every_transport(server, key):
    refused = {(401, "unauthenticated"), (403, "forbidden")}
    for path in [f"/v1/channels/{OWN}/events", f"/v1/channels/{OWN}/events?wait=1", f"/v1/channels/{OWN}",
                 f"/v1/events?channel=a&channel={OWN}", f"/v1/events?channel={OWN}&wait=1",
                 f"/v1/channels/{OWN}/events?since=latest", "/v1/admin/statistics", "/v1/admin/channels",
                 f"/v1/channels/{urllib.parse.quote('tidewire.')}%61dmin:statistics/events"]:
        assert code(ask(server, "GET", path, key)) in refused, path
        connection, answer = stream(server, path, key)
        assert answer.status in (400, 401, 403), path
        connection.close()
    assert code(publish(server, OWN, "x", key)) in refused
    assert code(ask(server, "DELETE", f"/v1/channels/{OWN}", key)) in refused
    for path in ["/v1/admin", "/v1/admin/channels?limit=1"]:
        assert code(ask(server, "GET", path, key)) in refused
    assert code(ask(server, "POST", "/v1/admin/tickets?channel=a&may=subscribe", key)) in refused
    if key == WRONG[1]:
        return  # no connection at all with a token that is none
    with pytest.raises(InvalidStatus):
        socket(server, key, f"/v1/channels/{OWN}/ws")
    held = socket(server, key)
    for message in [{"type": "subscribe", "channel": OWN}, {"type": "subscribe", "channel": OWN, "since": "earliest"},
                    {"type": "subscribe", "channel": OWN, "snapshot": True},
                    {"type": "publish", "channel": OWN, "data": 1}]:
        answer = say(held, **message)
        assert answer["type"] == "error" and answer["code"] in ("unauthenticated", "forbidden"), answer
    held.send(b"\x02" + bytes([len(OWN)]) + OWN.encode() + bytes(7) + b"x")
    assert receive(held)["code"] in ("unauthenticated", "forbidden")
    held.close()


def test_nobody_forges_what_the_server_says_of_itself(server):
    assert code(publish(server, OWN, "x")) == (403, "forbidden")
    assert code(ask(server, "DELETE", f"/v1/channels/{OWN}", ADMIN_KEY)) == (403, "forbidden")
    assert code(publish(server, "tidewire.other", "x")) == (403, "forbidden")
    held = socket(server, ADMIN_KEY)
    assert say(held, type="publish", channel=OWN, data=1)["code"] == "forbidden"
    held.close()


def test_pages_of_other_origins_are_refused(server):
    for path in ["/v1/admin", "/v1/admin/statistics", "/v1/admin/channels", "/admin"]:
        assert code(ask(server, "GET", path, ADMIN_KEY, Origin="https://evil.example")) == (403, "origin_not_allowed")
    answer = ask(server, "POST", "/v1/admin/drain", ADMIN_KEY, Origin="https://evil.example")
    assert code(answer) == (403, "origin_not_allowed")


def test_statistics_say_what_the_metrics_say_and_resume(server):
    connection, answer = statistics(server)
    assert publish(server, "counted", "x")[0] == 201
    seen = events_of(answer, 3)
    status, _, exposition = ask(server, "GET", "/metrics")
    assert status == 200
    published = next(line for line in exposition.decode().splitlines() if line.startswith("tidewire_events_published_total"))
    newest = seen[-1][1]
    assert newest["totals"]["published"] == int(published.split()[1])
    while newest["connections"]["sse"] != 1 or newest["subscriptions"] != 1:
        newest = events_of(answer)[0][1]  # until the streams of other tests are gone; reading times out
    assert newest["rates"] is not None and not newest["server"]["draining"]
    assert all(OWN not in row["channel"] for rows in newest["top_channels"].values() for row in rows)
    connection.close()
    # Whoever comes back gets what they missed, once, in order.
    connection, answer = statistics(server, Last_Event_ID=seen[0][0])
    again = events_of(answer, 2)
    assert again == seen[1:3]
    connection.close()
    # The same events by the channel's own name, for the same key.
    status, _, page = ask(server, "GET", f"/v1/channels/{OWN}/events?since={seen[0][0]}&limit=1", ADMIN_KEY)
    assert status == 200 and page["events"][0]["id"] == seen[1][0]


def test_the_list_of_channels(server):
    for number in range(7):
        assert publish(server, f"page:{number}", "abc")[0] == 201
    found, after = [], ""
    while True:
        query = urllib.parse.urlencode({"prefix": "page:", "limit": 3, "after": after})
        status, headers, page = ask(server, "GET", f"/v1/admin/channels?{query}", ADMIN_KEY)
        assert status == 200 and headers["Cache-Control"] == "no-store"
        found += page["channels"]
        if not page["more"]:
            break
        after = found[-1]["channel"]
    assert [row["channel"] for row in found] == [f"page:{number}" for number in range(7)]
    assert all(row["events"] == 1 and row["bytes"] == 3 and row["first"] == row["last"] for row in found)
    assert found[0]["first"]["time"].endswith("Z") and found[0]["subscribers"] == 0
    _, _, page = ask(server, "GET", "/v1/admin/channels?prefix=tidewire.", ADMIN_KEY)
    assert page == {"channels": [], "more": False}
    for wrong in ["limit=0", "limit=1001", "prefixes=a", "limit=1&limit=2"]:
        assert code(ask(server, "GET", f"/v1/admin/channels?{wrong}", ADMIN_KEY)) == (400, "invalid_parameter")


def test_channels_on_disk_are_listed_before_anybody_asks_for_them(tmp_path):
    write_keys(tmp_path)
    first = Server(tmp_path, CONFIG, data=tmp_path / "data")
    for channel in ["kept", "kept:a", "kept:b", "later"]:
        assert publish(first, channel, "abc")[0] == 201
    first.stop()
    second = Server(tmp_path, CONFIG, data=tmp_path / "data")
    _, _, page = ask(second, "GET", "/v1/admin/channels?prefix=kept", ADMIN_KEY)
    assert [(row["channel"], row["events"], row["bytes"], row["durability"]) for row in page["channels"]] == [
        ("kept", 1, 3, "disk"), ("kept:a", 1, 3, "disk"), ("kept:b", 1, 3, "disk")]
    assert all(row["last"]["time"] for row in page["channels"]) and not page["more"]
    _, _, page = ask(second, "GET", "/v1/admin/channels?limit=2&after=kept", ADMIN_KEY)
    assert [row["channel"] for row in page["channels"]] == ["kept:a", "kept:b"] and page["more"]
    second.stop()


def mint(server, query):
    return ask(server, "POST", f"/v1/admin/tickets?{query}", ADMIN_KEY)


def test_a_ticket_is_for_its_channel_and_rights_alone(server):
    status, headers, body = mint(server, "channel=closed:1&may=subscribe&may=publish")
    assert status == 201 and headers["Cache-Control"] == "no-store"
    held = connect(f"ws://{server.address}/v1/ws?ticket={body['ticket']}")
    assert say(held, type="subscribe", channel="closed:1")["type"] == "subscribed"
    for message in [{"type": "subscribe", "channel": "closed:2"}, {"type": "publish", "channel": "closed:2", "data": 1},
                    {"type": "subscribe", "channel": "open"}, {"type": "subscribe", "channel": OWN},
                    {"type": "publish", "channel": OWN, "data": 1}]:
        assert say(held, **message)["code"] == "forbidden", message
    held.send(json.dumps({"type": "publish", "channel": "closed:1", "data": 1}))
    assert {receive(held)["type"], receive(held)["type"]} == {"published", "event"}
    held.close()
    # It is good once, is no key to the admin API, and buys no other.
    with pytest.raises(InvalidStatus):
        connect(f"ws://{server.address}/v1/ws?ticket={body['ticket']}")
    for path in ["/v1/admin/statistics", f"/v1/channels/{OWN}/events"]:
        ticket = mint(server, "channel=a&may=subscribe&may=history")[2]["ticket"]
        assert code(ask(server, "GET", f"{path}?ticket={ticket}")) in {(403, "forbidden"), (401, "unauthenticated")}
    ticket = mint(server, "channel=closed:1&may=subscribe")[2]["ticket"]
    assert code(ask(server, "GET", f"/v1/channels/closed:1?ticket={ticket}"))[0] == 403
    for wrong in ["may=subscribe", "channel=a&may=delete", "channel=a%20b&may=subscribe", "channel=a&may=*"]:
        assert mint(server, wrong)[0] == 400, wrong
    assert code(mint(server, f"channel={OWN}&may=subscribe")) == (403, "forbidden")


def test_where_the_admin_api_has_a_port_it_is_there_alone(apart):
    server, admin = apart
    assert publish(server, "a", "x")[0] == 201
    for path in ["/admin", "/admin/admin.js", "/v1/admin", "/v1/admin/statistics", "/v1/admin/channels"]:
        assert ask(server, "GET", path, ADMIN_KEY)[0] == 404, path
    assert ask(admin, "GET", "/admin")[0] == 200
    assert ask(admin, "GET", "/admin/nothing.js")[0] == 404
    # Events are there for the admin key, and for nobody else: not even that there is such a route.
    for key in WRONG:
        for path in ["/v1/channels/a/events", "/v1/events?channel=a", "/v1/ws", f"/v1/channels/{OWN}/events"]:
            assert code(ask(admin, "GET", path, key)) == (404, "not_found"), path
        assert code(publish(admin, "a", "x", key)) == (404, "not_found")
    assert ask(admin, "GET", "/v1/channels/a/events", ADMIN_KEY)[2]["events"][0]["data"] == "x"
    assert code(ask(admin, "POST", "/v1/tickets", ADMIN_KEY)) == (404, "not_found")
    ticket = mint(admin, "channel=a&may=subscribe")[2]["ticket"]
    held = connect(f"ws://{admin.address}/v1/ws?ticket={ticket}")
    assert say(held, type="subscribe", channel="a")["type"] == "subscribed"
    held.close()
    connection, answer = statistics(admin)
    events_of(answer)
    connection.close()


def test_without_an_admin_key_the_page_says_how_to_configure_one(tmp_path):
    running = Server(tmp_path)
    status, _, body = ask(running, "GET", "/admin")
    assert status == 403 and "admin_key_file" in body["detail"]
    assert code(ask(running, "GET", f"/v1/channels/{OWN}/events")) == (401, "unauthenticated")
    assert code(publish(running, OWN, "x", None)) == (403, "forbidden")
    running.stop()


def test_those_who_watch_see_the_last_of_the_others_go(tmp_path):
    write_keys(tmp_path)
    running = Server(tmp_path, "limits.drain_window_ms = 100\n" + CONFIG)
    watcher, answer = statistics(running)
    held = socket(running, token("ann"))
    assert any(seen["users"] == 1 for _, seen in events_of(answer, 2))
    running.process.terminate()
    assert receive(held)["type"] == "reconnect"
    rest = answer.read().decode()
    assert "event: tidewire.reconnect" in rest
    assert running.process.wait(10) == 0
    with pytest.raises(ConnectionClosed):
        held.recv(timeout=5)
    watcher.close()
