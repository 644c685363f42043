"""How a server goes away: who is told what and when, what still finishes, and how the next one takes over. Must not
measure performance."""

import json
import os
import pathlib
import re
import signal
import socket as sockets
import subprocess
import sys
import threading
import time

import pytest

from conftest import BINARY, Server
from http2 import Client
from test_access import ADMIN_KEY, ask

CONFIG = """
h2c = true
limits.drain_notice_ms = 600
limits.drain_window_ms = 8000
limits.drain_timeout_ms = 4000
limits.close_timeout_ms = 300
rights.subscribe = "anyone"
rights.history = "anyone"
rights.publish = "anyone"
auth.admin_key_file = "admin.key"
"""
STREAM = b"GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
SOCKET = (b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
          b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


def start(directory, config=CONFIG, **more):
    (directory / "admin.key").write_text(ADMIN_KEY)
    (directory / "admin.key").chmod(0o600)
    return Server(directory, config, **more)


def connect(server, head=b""):
    connection = sockets.create_connection((server.host, server.port), timeout=10)
    connection.sendall(head)
    return connection


def until(connection, mark):
    received = b""
    while mark not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def rest(connection):
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    connection.close()
    return received


def delays(texts):
    """The delay that each client was told, which must be one number."""
    found = [re.search(rb'"after_ms":\[(\d+), ?(\d+)\],"reason":"drain"', text) for text in texts]
    assert all(match and match[1] == match[2] for match in found), texts[:2]
    return [int(match[1]) for match in found]


@pytest.mark.parametrize("how", ["signal", "admin"])
def test_everybody_is_told_and_what_is_under_way_finishes(tmp_path, how):
    server = start(tmp_path)
    streams = [connect(server, STREAM) for _ in range(60)]
    websockets = [connect(server, SOCKET) for _ in range(60)]
    [until(stream, b"id:") for stream in streams]
    [until(websocket, b"\r\n\r\n") for websocket in websockets]
    held = connect(server, b"GET /v1/channels/a/events?wait=50 HTTP/1.1\r\nHost: a\r\n\r\n")
    idle = connect(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    until(idle, b"}")
    upload = connect(server, b"POST /v1/channels/b/events HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
    carrier = Client(server.host, server.port)
    carried = carrier.open("GET", "/v1/channels/a/events", ("accept", "text/event-stream"))
    carrier.until(lambda: b"id:" in carrier.streams[carried]["body"])
    watch = connect(server)
    time.sleep(1.1)  # so that the idle one is no newcomer any more

    if how == "signal":
        server.process.terminate()
    else:
        assert ask(server, "POST", "/v1/admin/drain", key=ADMIN_KEY)[2] == {"draining": True}
    # Readiness fails first, while all else goes on.
    deadline = time.monotonic() + 5
    while True:
        watch.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        if b" 503 " in until(watch, b"}"):
            break
        assert time.monotonic() < deadline
    connect(server, STREAM).close()
    assert ask(server, "POST", "/v1/channels/a/events", body=b"late")[0] == 201

    told = [rest(stream) for stream in streams]
    assert all(b"data: late" in text and b"event: tidewire.reconnect" in text for text in told)
    retries = [int(re.findall(rb"retry: (\d+)", text)[-1]) for text in told]
    assert retries == delays(told)
    messages = [rest(websocket) for websocket in websockets]
    assert all(message.endswith(b"\x88\x07\x03\xe9drain") for message in messages), "1001"
    spread = sorted(retries + delays(messages))
    assert 500 <= spread[0] and spread[-1] <= 8000
    counts = [sum(500 + 750 * n <= delay < 500 + 750 * (n + 1) for delay in spread) for n in range(10)]
    assert min(counts) >= 9 and max(counts) <= 15, counts
    assert b'"events":[{"id"' in rest(held), "it has what came"
    assert rest(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    upload.sendall(b"again")
    assert b" 201 " in rest(upload)
    carrier.until(lambda: carrier.ended)
    assert carrier.goaway == 0 and delays([bytes(carrier.streams[carried]["body"])])
    carrier.close()
    watch.close()
    assert server.process.wait(10) == 0


def test_it_ends_by_its_deadline_and_at_once_when_told_twice(tmp_path):
    config = CONFIG.replace("drain_notice_ms = 600", "drain_notice_ms = 0").replace("close_timeout_ms = 300", "close_timeout_ms = 60000")
    server = start(tmp_path, config.replace("drain_timeout_ms = 4000", "drain_timeout_ms = 1000"))
    stubborn = connect(server, SOCKET)
    until(stubborn, b"\r\n\r\n")
    begun = time.monotonic()
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert 0.9 < time.monotonic() - begun < 4
    stubborn.close()
    server = start(tmp_path, config)
    stubborn = connect(server, SOCKET)
    until(stubborn, b"\r\n\r\n")
    begun = time.monotonic()
    server.process.terminate()
    until(stubborn, b"drain")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(10) == 1
    assert time.monotonic() - begun < 3
    stubborn.close()


def test_a_connection_that_ends_with_its_answer_is_gone_when_its_client_is(tmp_path):
    """Also where the answer came from the disk, and the request after which nothing more is taken was the last."""
    server = start(tmp_path, "limits.close_timeout_ms = 60000\n", data=tmp_path / "data")
    publish = b"POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
    for _ in range(20):
        assert b" 201 " in rest(connect(server, publish))
    descriptors = f"/proc/{server.process.pid}/fd"
    deadline = time.monotonic() + 10
    while sum(os.readlink(f"{descriptors}/{number}").startswith("socket:") for number in os.listdir(descriptors)) > 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.stop()


def test_a_socket_that_is_passed_on_refuses_nobody(tmp_path):
    """Clients come all the time; servers come and go behind one listening socket, as under systemd."""
    (tmp_path / "tidewire.toml").write_text("limits.close_timeout_ms = 200\n")
    listener = sockets.create_server(("127.0.0.1", 0), backlog=1000)
    port = listener.getsockname()[1]
    data = str(tmp_path / "data")
    starter = (
        "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3, inheritable=True)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), TIDEWIRE_LOG__LEVEL='warn')\n"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )

    def serve():
        command = [sys.executable, "-c", starter, str(listener.fileno()), str(BINARY), "serve", "--no-demo", "--data", data]
        process = subprocess.Popen([*command, "--config", str(tmp_path / "tidewire.toml")], stdout=subprocess.PIPE,
                                   text=True, pass_fds=[listener.fileno()])
        assert process.stdout.readline() == f"listening on http://127.0.0.1:{port}\n"
        return process

    taken, stop, wrong = [], threading.Event(), []

    def publish(worker):
        number = 0
        while not stop.is_set():
            body = f"{worker}-{number}".encode()
            request = (f"POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIdempotency-Key: {worker}-{number}\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n").encode() + body
            try:
                with sockets.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(request)
                    answer = rest(connection)
            except OSError as error:
                wrong.append(error)
                return
            if b" 201 " in answer or b" 200 " in answer:
                taken.append(body.decode())
                number += 1
            elif answer and b" 503 " not in answer:
                wrong.append(answer)

    process = serve()
    workers = [threading.Thread(target=publish, args=(worker,)) for worker in range(4)]
    [worker.start() for worker in workers]
    for _ in range(5):
        seen = len(taken)
        while len(taken) < seen + 50 and not wrong:
            time.sleep(0.01)
        process.terminate()
        assert process.wait(10) == 0
        process = serve()
    stop.set()
    [worker.join() for worker in workers]
    assert wrong == []
    found, cursor = [], "earliest"
    while True:
        with sockets.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET /v1/channels/a/events?limit=1000&since={cursor} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            page = json.loads(rest(connection).split(b"\r\n\r\n", 1)[1])
        found += [event["data"] for event in page["events"]]
        cursor = page["cursor"]
        if not page["more"]:
            break
    assert sorted(found) == sorted(set(found)) and set(taken) <= set(found), "each once"
    process.terminate()
    assert process.wait(10) == 0
    listener.close()


def roll(tmp_path, *arguments):
    """A small one of what BENCHMARKS.md shows."""
    report = tmp_path / "report.json"
    command = [pathlib.Path(BINARY).parent / "tidewire-bench", "rolling", "--clients", "200", "--window", "2", *arguments,
               "--tidewire", BINARY, "--json", report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    samples = json.loads(report.read_text())["series"][0]["samples"]
    assert min(samples["published"]) > 0
    assert [samples[what] for what in ("lost", "repeated", "reordered", "gaps")] == [[0]] * 4
    assert not any(samples["untold"]), "each was told when to come back"
    return samples


def test_rolling_restarts_behind_haproxy_lose_nothing(tmp_path):
    assert roll(tmp_path, "--restarts", "2", "--pause", "1")["back"] == [200, 200]


def test_rolling_restarts_of_servers_that_share_a_broker_lose_nothing(tmp_path):
    back = roll(tmp_path, "--nodes", "3", "--restarts", "3", "--pause", "3")["back"]
    assert min(back) > 0 and sum(back) >= 200, "each was on a server that went"


def test_a_socket_that_lets_anybody_in_is_not_taken(tmp_path):
    (tmp_path / "tidewire.toml").write_text("")
    listener = sockets.create_server(("0.0.0.0", 0))
    environment = {**os.environ, "LISTEN_FDS": "1"}
    command = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$; exec {BINARY} serve --memory --config {tmp_path}/tidewire.toml"
    ended = subprocess.run(["bash", "-c", command], env=environment, pass_fds=[listener.fileno()], capture_output=True,
                           text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (1, "") and "--insecure" in ended.stderr, ended
    listener.close()


def test_two_servers_may_share_a_port_if_both_say_so(tmp_path):
    (tmp_path / "b").mkdir()
    first = Server(tmp_path, "reuse_port = true\n")
    config = tmp_path / "b" / "tidewire.toml"
    command = [BINARY, "serve", "--listen", first.address, "--memory", "--no-demo", "--config", config]
    config.write_text("")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 1 and "another program" in refused.stderr
    config.write_text("reuse_port = true\n")
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TIDEWIRE_LOG__LEVEL": "warn"})
    assert second.stdout.readline().startswith("listening on")
    first.stop()
    for _ in range(20):
        assert ask(first, "GET", "/healthz")[0] == 200
    second.terminate()
    assert second.wait(10) == 0
