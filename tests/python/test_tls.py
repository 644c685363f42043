"""TLS: what is spoken, who is shown which certificate, and that neither a new one nor a bad peer breaks a connection.
Must not know how HTTP/2 works; `test_http2` has that."""

import datetime
import errno
import ipaddress
import json
import pathlib
import re
import socket as sockets
import ssl
import struct
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect

from conftest import BINARY, Server
from http2 import Client

CONFIG = """
limits.event_bytes = 4000000
[tls]
listen = "127.0.0.1:0"
certificate_file = "certificate.pem"
key_file = "key.pem"
"""


def write_certificate(directory, name="localhost", key=None):
    """Signed by itself. The key comes first, as most tools write them."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30)).add_extension(x509.SubjectAlternativeName(names), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, content in [("key.pem", text), ("certificate.pem", certificate.public_bytes(pem))]:
        (directory / f"{file}.new").write_bytes(content)
        (directory / f"{file}.new").rename(directory / file)


def context_for(directory, *protocols, **versions):
    context = ssl.create_default_context(cafile=directory / "certificate.pem")
    context.set_alpn_protocols(list(protocols) or ["http/1.1"])
    for name, version in versions.items():
        setattr(context, name, version)
    return context


class Secure(Server):
    """A server that also speaks TLS."""

    def __init__(self, directory, config=CONFIG, **more):
        if not (directory / "key.pem").exists():
            write_certificate(directory)
        super().__init__(directory, config, **more)
        self.directory = directory
        self.tls_port = int(self.process.stdout.readline().strip().rsplit(":", 1)[1])

    def connect(self, context=None, **more):
        plain = sockets.create_connection((self.host, self.tls_port), timeout=10)
        return (context or context_for(self.directory)).wrap_socket(plain, server_hostname="localhost", **more)


@pytest.fixture
def server(tmp_path):
    running = Secure(tmp_path)
    yield running
    running.stop()


def ask(connection, method, path, body=b"", *fields):
    """Status and body of an answer with a length."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields]
    connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, rest = received.partition(b"\r\n\r\n")
    length = int(next(line.split()[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")))
    while len(rest) < length:
        rest += connection.recv(65536)
    return int(head.split()[1]), rest


def subject(connection):
    shown = x509.load_der_x509_certificate(connection.getpeercert(True))
    return shown.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_and_large_messages_both_ways(server, version):
    context = context_for(server.directory, minimum_version=version, maximum_version=version)
    with server.connect(context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        data = bytes(range(1, 128)) * 20_000
        assert ask(connection, "POST", "/v1/channels/a/events", data, "Content-Type: text/plain")[0] == 201
        status, body = ask(connection, "GET", "/v1/channels/a/events")
        assert (status, json.loads(body)["events"][0]["data"].encode()) == (200, data)
        assert ask(connection, "GET", "/healthz")[0] == 200


def test_old_versions_and_other_protocols_are_refused(server):
    with pytest.raises(ssl.SSLError):
        context = context_for(server.directory, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        context.set_ciphers("ALL:@SECLEVEL=0")
        server.connect(context)
    for bytes_ in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"\x80" * 100, b""]:
        with sockets.create_connection((server.host, server.tls_port), timeout=10) as connection:
            try:
                connection.sendall(bytes_)
                connection.shutdown(sockets.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError as error:  # as it closes at once, any of the three may be the first to see it
                assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), error
    with server.connect() as connection:
        assert ask(connection, "GET", "/healthz")[0] == 200


def test_a_handshake_that_stops_half_way_ends_in_time(tmp_path):
    server = Secure(tmp_path, "limits.head_timeout_ms = 500\n" + CONFIG)
    with sockets.create_connection((server.host, server.tls_port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        begun = time.monotonic()
        while connection.recv(65536):
            pass
        assert time.monotonic() - begun < 5
    server.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_comes_back_resumes(server, version):
    context = context_for(server.directory, minimum_version=version, maximum_version=version)
    first = server.connect(context)
    assert ask(first, "GET", "/healthz")[0] == 200
    session = first.session
    first.close()
    with server.connect(context, session=session) as second:
        assert ask(second, "GET", "/healthz")[0] == 200
        assert second.session_reused


def test_a_new_certificate_is_shown_and_no_connection_breaks(server):
    old = server.connect()
    stream = server.connect()
    stream.sendall(b"GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
    assert b"200 OK" in stream.recv(65536)
    write_certificate(server.directory, "second", rsa.generate_private_key(65537, 2048))
    shown = lambda: subject(server.connect(context_for(server.directory)))

    def is_new():
        try:
            return shown() == "second"
        except ssl.SSLCertVerificationError:
            return False

    wait_for(is_new)
    assert ask(old, "POST", "/v1/channels/a/events", b"still here")[0] == 201
    received = b""
    while b"still here" not in received:
        received += stream.recv(65536)
    # One that cannot be read changes nothing, and is said.
    (server.directory / "key.pem").write_text("nonsense")
    server.log.seek(0)
    wait_for(lambda: "the certificate stays as it was" in pathlib.Path(server.log.name).read_text())
    assert shown() == "second"
    body = ask(old, "GET", "/metrics")[1].decode()
    counted = dict(re.findall(r"^tidewire_certificate_(\w+) (\S+)$", body, re.MULTILINE))
    assert 29 * 86_400 < float(counted["expiry_seconds"]) <= 30 * 86_400
    # The two files are looked at between being written, too, which may count as one that is not sound.
    assert int(counted["changes_total"]) >= 1 and int(counted["failures_total"]) >= 1
    write_certificate(server.directory, "third")

    def is_third():
        try:
            return shown() == "third"
        except ssl.SSLCertVerificationError:
            return False

    wait_for(is_third)
    old.close()
    stream.close()
    server.warns = True


def test_a_slow_reader_costs_no_memory_and_loses_nothing(tmp_path):
    server = Secure(tmp_path, 'history.bytes = 100000000\nlimits.lag_events = 1000\n' + CONFIG)
    plain = sockets.socket()
    plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.connect((server.host, server.tls_port))
    slow = context_for(tmp_path).wrap_socket(plain, server_hostname="localhost")
    slow.sendall(b"GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
    received = slow.recv(65536)
    publisher = server.connect()
    before = server.resident_bytes()
    for number in range(300):
        data = f"{number} ".encode() + b"x" * 100_000
        assert ask(publisher, "POST", "/v1/channels/a/events", data)[0] == 201
    assert server.resident_bytes() - before < 80_000_000, "30 MB of data and their frames"
    received = bytearray(received)
    while b"data: 299 " not in received[-200_000:]:
        piece = slow.recv(65536)
        assert piece
        received += piece
    numbers = [int(line.split()[1]) for line in bytes(received).split(b"\n") if line.startswith(b"data: ")]
    assert numbers == list(range(300))
    slow.close()
    publisher.close()
    server.stop()


def test_websockets_and_http_2(server):
    with connect(f"wss://localhost:{server.tls_port}/v1/ws", ssl=context_for(server.directory)) as socket:
        socket.send(json.dumps({"type": "subscribe", "channel": "a", "id": 1}))
        assert json.loads(socket.recv(timeout=5))["type"] == "subscribed"
        client = Client(server.host, server.tls_port, context_for(server.directory, "h2", "http/1.1"))
        assert client.ask("POST", "/v1/channels/a/events", body=b"over two")[0] == 201
        assert json.loads(socket.recv(timeout=5))["data"] == "over two"
        client.close()


def test_what_a_proxy_says_comes_before_the_handshake(tmp_path):
    config = '[proxies]\ntrusted = ["127.0.0.1"]\nproxy_protocol = true\n'
    server = Secure(tmp_path, "limits.connections_per_ip = 1\n" + CONFIG + config)

    def through(header):
        plain = sockets.create_connection((server.host, server.tls_port), timeout=10)
        plain.sendall(header[:7])
        time.sleep(0.05)
        plain.sendall(header[7:])
        return context_for(tmp_path).wrap_socket(plain, server_hostname="localhost")

    v1 = b"PROXY TCP4 192.0.2.%d 192.0.2.9 1000 443\r\n"
    v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 192, 0, 2, 9]) + struct.pack("!HH", 1, 443)
    kept = [through(v1 % 1), through(v1 % 2), through(v2)]
    assert [ask(connection, "GET", "/healthz")[0] for connection in kept] == [200, 200, 200]
    with pytest.raises((ssl.SSLError, OSError)):
        ask(through(v1 % 1), "GET", "/healthz")
    with pytest.raises((ssl.SSLError, OSError)):
        server.connect()
    [connection.close() for connection in kept]
    server.stop()


def test_mistakes_end_the_start_with_a_word(tmp_path):
    write_certificate(tmp_path)
    good = {name: (tmp_path / name).read_bytes() for name in ("key.pem", "certificate.pem")}

    def said(config=CONFIG):
        (tmp_path / "tidewire.toml").write_text(config)
        command = [BINARY, "serve", "--memory", "--listen", "127.0.0.1:0", "--config", tmp_path / "tidewire.toml"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
        checked = subprocess.run([BINARY, "config", "check", "--config", command[-1]], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, checked.returncode) == (1, "", 1)
        return ended.stderr

    (tmp_path / "key.pem").write_text("nothing")
    assert "key.pem" in said() and "private key" in said()
    write_certificate(tmp_path)
    (tmp_path / "certificate.pem").write_bytes(good["certificate.pem"])
    assert "does not go with" in said()
    (tmp_path / "certificate.pem").write_bytes((tmp_path / "key.pem").read_bytes())
    assert "must hold the certificate" in said()
    (tmp_path / "certificate.pem").unlink()
    assert "certificate.pem" in said()
    assert "needs key_file" in said('[tls]\nlisten = "127.0.0.1:0"\ncertificate_file = "c"\n')
    write_certificate(tmp_path)
    assert "--insecure" in said(CONFIG.replace("127.0.0.1:0", "0.0.0.0:0"))
