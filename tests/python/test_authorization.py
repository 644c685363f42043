"""Who may do what, compared with a second opinion: rules, tokens and channels at random, over every transport."""

import json
import os
import random

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import Server
from test_access import ADMIN_KEY, SECRET, ask, publish, receive, say, stream, token

ACTIONS = ["subscribe", "history", "publish", "presence"]
WORDS = ["anyone", "authenticated", "granted", "nobody"]
PATTERNS = ["a:*", "a:b:*", "a:b:c", "u:{sub}:*", "u:{sub}", "u:ann:x", "*", "b:*"]
CHANNELS = ["a:1", "a:b:1", "a:b:c", "u:ann:x", "u:ann", "u:bob:x", "u:ann:", "b:", "u:annx:x", "c"]
USERS = [None, "ann", "bob", "an", "ann:x", "*"]


def fits(pattern, channel):
    """The user whom the channel belongs to, "" if nobody in particular, None if it does not fit."""
    wildcard = pattern.endswith("*")
    wanted, given = pattern.removesuffix("*").split(":"), channel.split(":")
    owner = ""
    for place, part in enumerate(wanted):
        last = place == len(wanted) - 1
        if place >= len(given):
            return None
        if part == "{sub}":
            if not given[place]:
                return None
            owner = given[place]
        elif last and wildcard:
            return owner if ":".join(given[place:]).startswith(part) else None
        elif part != given[place]:
            return None
    return owner if len(given) == len(wanted) else None


def allowed(rules, default, who, action, channel):
    """What PROTOCOL.md section 7 says, in other words than the server's. `who` is None, or a user and their lists."""
    rights, owner = next(
        ((rule["rights"], owner) for rule in rules if (owner := fits(rule["pattern"], channel)) is not None), (default, "")
    )
    word = rights[action]
    if word == "nobody":
        return False
    if who is None:
        return word == "anyone" and not owner
    user, lists = who
    if owner and owner != user:
        return False
    granted = lists.get(action, lists.get("subscribe") if action == "history" else None)
    if granted is None:
        return word != "granted"
    return any((of := fits(pattern, channel)) is not None and of in ("", user) for pattern in granted)


def random_rights(chance):
    return {action: chance.choice(WORDS) for action in ACTIONS}


def to_toml(rules, default):
    def rights(of):
        return "".join(f'rights.{action} = "{word}"\n' for action, word in of.items())

    tables = "".join(f'[[channels]]\npattern = "{rule["pattern"]}"\n{rights(rule["rights"])}' for rule in rules)
    return f'auth.admin_key_file = "admin.key"\n{rights(default)}[[auth.issuers]]\nsecret_file = "secret"\n{tables}'


def can_subscribe(server, key, channel, transport):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if transport == "sse":
        connection, answer = stream(server, f"/v1/channels/{channel}/events", key)
        connection.close()
        return answer.status == 200
    if transport == "several":
        connection, answer = stream(server, f"/v1/events?channel={channel}", key)
        connection.close()
        return answer.status == 200
    path = f"/v1/channels/{channel}/ws" if transport == "raw" else "/v1/ws"
    try:
        with connect(f"ws://{server.address}{path}", additional_headers=headers) as socket:
            return transport == "raw" or say(socket, type="subscribe", channel=channel)["type"] == "subscribed"
    except InvalidStatus as refused:
        assert refused.response.status_code in (401, 403)
        return False


def can_read(server, key, channel, way):
    paths = {"poll": f"/v1/channels/{channel}/events", "several": f"/v1/events?channel={channel}",
             "snapshot": f"/v1/channels/{channel}"}
    status = ask(server, "GET", paths[way], key)[0]
    assert status in (200, 401, 403)
    return status == 200


def can_publish(server, key, channel, way):
    if way == "http":
        status = publish(server, channel, "x", key)[0]
        assert status in (201, 401, 403)
        return status == 201
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        if way == "raw":
            with connect(f"ws://{server.address}/v1/channels/{channel}/ws", additional_headers=headers) as socket:
                socket.send("x")
                return socket.recv(timeout=5) == "x"
        with connect(f"ws://{server.address}/v1/ws", additional_headers=headers) as socket:
            if way == "binary":
                name = channel.encode()
                socket.send(b"\x02" + bytes([len(name)]) + name + b"\x00\x00\x00\x00\x00\x00\x00x")
                return receive(socket)["type"] == "published"
            return say(socket, type="publish", channel=channel, data=1)["type"] == "published"
    except InvalidStatus as refused:
        assert refused.response.status_code in (401, 403)
        return False
    except ConnectionClosed as closed:
        assert (closed.rcvd.code, closed.rcvd.reason) in [(1008, "forbidden"), (1008, "unauthenticated")]
        return False


def can_see(server, key, channel, way):
    """Who is there, and for `enter` and `post`: be there."""
    paths = {"get": f"/v1/channels/{channel}/presence", "poll": f"/v1/channels/tidewire.presence:{channel}/events",
             "several": f"/v1/events?channel=tidewire.presence:{channel}"}
    if way in paths:
        return ask(server, "GET", paths[way], key)[0] == 200
    if way == "post":
        return ask(server, "POST", f"/v1/channels/{channel}/presence?instance=x", key)[0] == 200
    if way in ["sse", "ws"]:
        return can_subscribe(server, key, f"tidewire.presence:{channel}", way)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with connect(f"ws://{server.address}/v1/ws", additional_headers=headers) as socket:
            return say(socket, type="enter", channel=channel)["type"] == "entered"
    except InvalidStatus as refused:
        assert refused.response.status_code in (401, 403)
        return False


@pytest.mark.parametrize("round", range(4))
def test_all_ways_in_agree_with_a_second_opinion(tmp_path, round):
    seed = int(os.environ.get("TIDEWIRE_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    rules = [{"pattern": pattern, "rights": random_rights(chance)} for pattern in chance.sample(PATTERNS, 4)]
    default = random_rights(chance)
    for name, text in [("secret", SECRET), ("admin.key", ADMIN_KEY)]:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    server = Server(tmp_path, to_toml(rules, default), warns=True)
    anonymous_sockets = any("anyone" in rights.values() for rights in [default, *(rule["rights"] for rule in rules)])
    for _ in range(60):
        user, lists = chance.choice(USERS), {}
        for action in ACTIONS:
            if chance.random() < 0.5:
                lists[action] = chance.sample(PATTERNS, chance.randrange(3))
        key, who = (None, None) if user is None else (token(user, **lists) if lists else token(user), (user, lists))
        channel = chance.choice(CHANNELS)
        expected = {action: allowed(rules, default, who, action, channel) for action in ACTIONS}
        case = f"seed {seed}: {to_toml(rules, default)}\n{user} {lists} {channel} {expected}"
        transport = chance.choice(["sse", "several", "raw", "ws"])
        enters = who is not None or anonymous_sockets or transport != "ws"
        assert can_subscribe(server, key, channel, transport) == (expected["subscribe"] and enters), (transport, case)
        way = chance.choice(["poll", "several", "snapshot"])
        assert can_read(server, key, channel, way) == expected["history"], (way, case)
        way = chance.choice(["http", "message", "binary", "raw"])
        enters = {"http": True, "raw": expected["subscribe"]}.get(way, who is not None or anonymous_sockets)
        assert can_publish(server, key, channel, way) == (expected["publish"] and enters), (way, case)
        way = chance.choice(["get", "poll", "several", "sse", "ws", "post", "enter"])
        # Nobody is present without a name.
        enters = who is not None or (way not in ["post", "enter"] and (anonymous_sockets or way != "ws"))
        assert can_see(server, key, channel, way) == (expected["presence"] and enters), (way, case)
    server.stop()
