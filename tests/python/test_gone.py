"""Peers that are gone without a word: the cable is pulled between two network namespaces, and what they held is
returned within a bounded time, on every transport. Needs root, as namespaces do."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from conftest import BINARY
from test_tls import write_certificate

HEARTBEAT_MS, STALL_MS, CLOSE_MS, WAIT_MS = 500, 1500, 300, 3000
CONFIG = f"""
h2c = true
limits.heartbeat_ms = {HEARTBEAT_MS}
limits.stall_timeout_ms = {STALL_MS}
limits.close_timeout_ms = {CLOSE_MS}
limits.idle_timeout_ms = 3000
limits.head_timeout_ms = 3000
limits.body_timeout_ms = 3000
limits.wait_ms = {WAIT_MS}
[tls]
listen = "10.99.0.1:8443"
certificate_file = "certificate.pem"
key_file = "key.pem"
"""
# What is sent last, heartbeats or a held poll's answer, then the patience for it; and some time for a busy machine.
BOUND_SECONDS = (max(4 * HEARTBEAT_MS, WAIT_MS) + STALL_MS + CLOSE_MS) / 1000 + 6

CLIENTS = r"""
import socket, ssl, sys, time
sys.path.insert(0, sys.argv[1])
from http2 import Client
HOST = "10.99.0.1"
STREAM = b"GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
SOCKET = (b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
          b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
POLL = b"GET /v1/channels/a/events?wait=60 HTTP/1.1\r\nHost: a\r\n\r\n"
UPLOAD = b"POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
secure = ssl.create_default_context()
secure.check_hostname, secure.verify_mode = False, ssl.CERT_NONE
secure.set_alpn_protocols(["h2"])
kept = []
for head in [STREAM, SOCKET, POLL, UPLOAD, b"", b"GET /he"]:
    for port in [8080, 8443]:
        for _ in range(5):
            connection = socket.create_connection((HOST, port), timeout=10)
            if port == 8443:
                connection = context.wrap_socket(connection, server_hostname="localhost")
            connection.sendall(head)
            if head in (STREAM, SOCKET):
                connection.recv(4096)
            kept.append(connection)
for port in [8080, 8443]:
    client = Client(HOST, port, secure if port == 8443 else None)
    streams = [client.open("GET", "/v1/channels/a/events", ("accept", "text/event-stream")) for _ in range(10)]
    client.until(lambda: all(b"id:" in client.streams[number]["body"] for number in streams))
    kept.append(client)
print("ready", flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture
def lan():
    """Two namespaces and a cable between them."""
    names = [f"tidewire-{side}-{os.getpid()}" for side in ("server", "client")]
    for name in names:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", names[0], "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", names[1])
    for name, link, address in [(names[0], "cable0", "10.99.0.1/24"), (names[1], "cable1", "10.99.0.2/24")]:
        ip("-n", name, "address", "add", address, "dev", link)
        ip("-n", name, "link", "set", link, "up")
    yield names
    for name in names:
        ip("netns", "delete", name, check=False)


def test_what_gone_peers_held_is_returned(tmp_path, lan):
    write_certificate(tmp_path)
    (tmp_path / "tidewire.toml").write_text(CONFIG)
    inside = lambda name, *command: ["ip", "netns", "exec", name, *map(str, command)]
    serve = [BINARY, "serve", "--insecure", "--listen", "10.99.0.1:8080", "--memory", "--no-demo"]
    environment = {**os.environ, "TIDEWIRE_LOG__LEVEL": "warn"}
    server = subprocess.Popen(inside(lan[0], *serve, "--config", tmp_path / "tidewire.toml"), stdout=subprocess.PIPE,
                              text=True, env=environment)
    clients = None

    def open_connections():
        text = subprocess.run(inside(lan[0], "curl", "-s", "http://10.99.0.1:8080/metrics"), check=True,
                              capture_output=True, text=True).stdout
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("tidewire_connections{")) - 1

    descriptors = lambda: len(list(pathlib.Path(f"/proc/{server.pid}/fd").iterdir()))
    try:
        assert server.stdout.readline().startswith("listening on")
        before = descriptors()
        path = pathlib.Path(__file__).parent
        clients = subprocess.Popen(inside(lan[1], sys.executable, "-c", CLIENTS, path), stdout=subprocess.PIPE, text=True)
        assert clients.stdout.readline() == "ready\n"
        streams = 2 * 5 * 3 + 20
        assert open_connections() >= streams + 2 and descriptors() >= before + 2 * 5 * 3 + 2
        # Nobody who is there is taken for gone.
        time.sleep(3 * HEARTBEAT_MS / 1000)
        ip("-n", lan[1], "link", "set", "cable1", "down")
        pulled = time.monotonic()
        while open_connections() > 0 or descriptors() > before:
            assert time.monotonic() - pulled < BOUND_SECONDS, (open_connections(), descriptors(), before)
            time.sleep(0.1)
        print(f"all gone after {time.monotonic() - pulled:.1f} s")
    finally:
        for process in (clients, server):
            if process:
                process.kill()
                process.wait()
