"""Events that are not kept: the first that a slow consumer does without, and nobody else loses anything by it."""

import http.client
import json
import socket as sockets

import pytest
from websockets.sync.client import connect

from conftest import Server

CONFIG = """
[history]
bytes = 100000000

[[channels]]
pattern = "typing:*"
durability = "none"
"""
COUNT = 1500
FILLING = "x" * 8000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("ephemeral"), CONFIG)
    yield running
    running.stop()


def publish_all(server, room, numbers):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    for number in numbers:
        for channel in [f"chat:{room}", f"typing:{room}"]:
            body = json.dumps({"number": number, "filling": FILLING})
            connection.request("POST", f"/v1/channels/{channel}/events", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 201, answer.read()
            answer.read()
    connection.close()


def slow_socket(server):
    """A socket whose kernel holds little."""
    one = sockets.socket()
    one.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    one.settimeout(20)
    one.connect((server.host, server.port))
    return one


def blocks(lines):
    """Events of a stream as (name, data, id)."""
    name = data = cursor = None
    for line in lines:
        field, _, value = line.rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = json.loads(value)
        elif field == "id":
            cursor = value
        elif not field:
            if data is not None:
                yield name, data, cursor
            name = data = None


def check(kept, passing, gaps):
    assert kept == list(range(COUNT + 1))
    assert passing[-1] == COUNT and passing == sorted(set(passing))
    missing = set(range(COUNT + 1)) - set(passing)
    assert len(missing) > 64 and gaps >= 1


def test_a_slow_socket_loses_what_passes_and_nothing_else(server):
    with connect(f"ws://{server.address}/v1/ws", sock=slow_socket(server), max_queue=1, compression=None) as one:
        for channel in ["typing:ws", "chat:ws"]:
            one.send(json.dumps({"type": "subscribe", "channel": channel}))
            assert json.loads(one.recv(5))["type"] == "subscribed"
        publish_all(server, "ws", range(COUNT))
        got = {"chat:ws": [], "typing:ws": []}
        gaps = []
        is_last_out = False
        while not got["chat:ws"] or got["chat:ws"][-1] < COUNT or got["typing:ws"][-1] < COUNT:
            message = json.loads(one.recv(10))
            if message["type"] == "gap":
                assert message["channel"] == "typing:ws"
                gaps.append(message)
            else:
                got[message["channel"]].append(message["data"]["number"])
            if not is_last_out and got["chat:ws"] and got["chat:ws"][-1] == COUNT - 1:
                publish_all(server, "ws", [COUNT])
                is_last_out = True
        check(got["chat:ws"], got["typing:ws"], len(gaps))
        assert all(gap["requested"] != gap["resumed_from"] for gap in gaps)


@pytest.mark.parametrize("several", [True, False])
def test_a_slow_stream_loses_what_passes_and_nothing_else(server, several):
    room = f"sse-{several}"
    channels = [f"typing:{room}", f"chat:{room}"] if several else [f"typing:{room}"]
    path = "/v1/events?" + "&".join(f"channel={channel}" for channel in channels)
    path = path if several else f"/v1/channels/typing:{room}/events"
    with slow_socket(server) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n".encode())
        file = one.makefile()
        while file.readline().strip():
            pass
        publish_all(server, room, range(COUNT))
        kept, passing, gaps, said = [], [], [], False
        for name, data, cursor in blocks(file):
            if name == "tidewire.gap":
                gaps.append((data, cursor))
            else:
                number = (data["data"] if several else data)["number"]
                (kept if several and data["channel"].startswith("chat") else passing).append(number)
            # Once all that stood still has moved on, it is live again.
            if not said and (gaps and not several or kept and kept[-1] == COUNT - 1):
                publish_all(server, room, [COUNT])
                said = True
            if passing and passing[-1] == COUNT and (not several or kept[-1] == COUNT):
                break
        check(kept if several else list(range(COUNT + 1)), passing, len(gaps))
        for gap, cursor in gaps:
            assert gap["channels" if several else "channel"] in ([channels[0]], channels[0])
            assert gap["resumed_from"] in cursor.split(".")


def test_without_a_place_for_gaps_there_is_none(server):
    path = f"ws://{server.address}/v1/channels/typing:raw/ws"
    with connect(path, sock=slow_socket(server), max_queue=1, compression=None) as one:
        publish_all(server, "raw", range(COUNT))
        numbers = []
        with pytest.raises(TimeoutError):
            while True:
                numbers.append(json.loads(one.recv(1))["number"])
        publish_all(server, "raw", [COUNT])
        numbers.append(json.loads(one.recv(10))["number"])
        assert numbers[-1] == COUNT and numbers == sorted(set(numbers)) and len(numbers) < COUNT
