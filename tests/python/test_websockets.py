"""Python's `websockets`, a client that we did not write, against the server."""

import json
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect


def receive(socket):
    return json.loads(socket.recv(timeout=5))


def ask(socket, **message):
    socket.send(json.dumps(message))
    return receive(socket)


def post(address, channel, body, content_type="application/json"):
    request = urllib.request.Request(
        f"http://{address}/v1/channels/{channel}/events", body, {"Content-Type": content_type}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)["id"]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_events_come_in_order_and_resume_where_they_ended(address, compression):
    channel = f"resume-{compression}"
    ids = [post(address, channel, json.dumps({"n": n, "pad": "x" * 200}).encode()) for n in range(20)]
    with connect(f"ws://{address}/v1/ws", compression=compression) as socket:
        assert ask(socket, type="subscribe", channel=channel, since=ids[4])["cursor"] == ids[4]
        events = [receive(socket) for _ in range(5)]
        assert [event["id"] for event in events] == ids[5:10]
    with connect(f"ws://{address}/v1/ws", compression=compression) as socket:
        ask(socket, type="subscribe", channel=channel, since=events[-1]["id"])
        assert [receive(socket)["data"]["n"] for _ in range(10)] == list(range(10, 20))


def test_many_channels_on_one_socket(address):
    with connect(f"ws://{address}/v1/ws", subprotocols=["tidewire.v1"]) as socket:
        assert socket.subprotocol == "tidewire.v1"
        for n in range(50):
            assert ask(socket, type="subscribe", channel=f"many:{n}", id=n)["id"] == n
        ids = [post(address, f"many:{n}", b"%d" % n) for n in reversed(range(50))]
        events = [receive(socket) for _ in range(50)]
        assert sorted(event["id"] for event in events) == sorted(ids)
        assert all(event["channel"] == f"many:{event['data']}" for event in events)
        assert ask(socket, type="unsubscribe", channel="many:7", id="u") == {
            "type": "unsubscribed",
            "channel": "many:7",
            "id": "u",
        }
        post(address, "many:7", b"0")
        post(address, "many:8", b"8")
        assert receive(socket)["channel"] == "many:8"


def test_an_error_names_its_message_and_leaves_the_socket_open(address):
    with connect(f"ws://{address}/v1/ws") as socket:
        error = ask(socket, type="subscribe", channel="not a name", id=5)
        assert (error["type"], error["code"], error["id"]) == ("error", "invalid_channel", 5)
        assert ask(socket, type="ping", id=6) == {"type": "pong", "id": 6}


def test_large_messages_both_ways_in_fragments(address):
    text = "grüße " * 100_000
    with connect(f"ws://{address}/v1/channels/large/ws", max_size=None) as socket:
        socket.send(text[n : n + 10_000] for n in range(0, len(text), 10_000))
        assert socket.recv(timeout=10) == text


def test_a_message_over_the_limit_closes_with_1009(address):
    with connect(f"ws://{address}/v1/channels/limit/ws", compression=None) as socket:
        socket.send(b"x" * (1 << 20))
        assert len(socket.recv(timeout=10)) == 1 << 20
        with pytest.raises(ConnectionClosedError) as closed:
            socket.send(b"x" * ((1 << 20) + 1))
            socket.recv(timeout=10)
        assert closed.value.rcvd.code == 1009


def test_a_gap_is_told_and_followed_by_what_is_retained(address):
    ids = [post(address, "gap", b"%d" % n) for n in range(3)]
    unknown = "0123456789-5"
    with connect(f"ws://{address}/v1/ws") as socket:
        ask(socket, type="subscribe", channel="gap", since=unknown)
        gap = receive(socket)
        assert gap == {"type": "gap", "channel": "gap", "requested": unknown, "resumed_from": ids[0]}
        assert [receive(socket)["id"] for _ in range(3)] == ids
    with connect(f"ws://{address}/v1/channels/gap/ws?since={unknown}") as socket:
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv(timeout=5)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4003, "gap")


def test_a_cursor_that_is_none_is_refused_before_the_upgrade(address):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/v1/channels/a/ws?since=yesterday")
    assert refused.value.response.status_code == 400
    assert b"invalid_cursor" in refused.value.response.body
