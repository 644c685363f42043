"""Certificates that the server gets and renews itself, from a real authority (pebble): when all is well, when the
authority is away, refuses or forgets, and when what is kept is damaged. Must not know how they are got."""

import functools
import http.server
import json
import pathlib
import re
import socket as sockets
import ssl
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from cryptography import x509
from websockets.sync.client import connect

from conftest import BINARY, Server
from pebble import Pebble, eventually, free_port

DOMAIN = "live.example.com"
CONFIG = """
[tls]
listen = "127.0.0.1:{port}"
[tls.acme]
domains = {domains}
contact = "mailto:ops@example.com"
accept_terms = true
directory = "{directory}"
authority_file = "{authority}"
state = "state"
"""


class Acme(Server):
    """A server that gets its certificate itself; to begin with it need not have one."""

    def __init__(self, directory, pebble, domains=(DOMAIN,), url=None, **more):
        self.directory, self.tls_port = pathlib.Path(directory), pebble.config["tlsPort"]
        config = CONFIG.format(port=self.tls_port, domains=json.dumps(list(domains)), directory=url or pebble.url,
                               authority=pebble.authority_file)
        super().__init__(directory, config, **more)

    def shown(self, trust, name=DOMAIN):
        """The number of the certificate that a client gets who trusts `trust`; none if it does not get in."""
        try:
            with sockets.create_connection((self.host, self.tls_port), timeout=10) as plain:
                with trust.wrap_socket(plain, server_hostname=name) as connection:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                    return x509.load_der_x509_certificate(connection.getpeercert(True)).serial_number
        except ssl.SSLError:
            return None

    def status(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name):
        return float(re.search(rf"^tidewire_certificate_{name} (\S+)$", self.status("/metrics")[1], re.MULTILINE)[1])

    def said(self, what=""):
        """The lines of the log with something in them."""
        return [line for line in pathlib.Path(self.log.name).read_text().splitlines() if what in line]

    def state(self, name):
        [path] = (self.directory / "state").glob(f"*/{name}")
        return path


@pytest.fixture
def pebble(tmp_path):
    authority = Pebble(tmp_path, free_port())
    yield authority
    authority.stop()


def test_one_is_got_kept_and_not_ordered_again(tmp_path, pebble):
    pebble.start()
    root, domains = pebble.root(), ["Live.Example.com", "b.example.com"]
    server = Acme(tmp_path, pebble, domains)
    first = eventually(lambda: server.shown(root))
    assert server.shown(root, "b.example.com") == first
    assert server.status("/readyz")[0] == 200
    assert (server.metric("changes_total"), server.metric("failures_total")) == (1, 0)
    assert 80_000 < server.metric("expiry_seconds") <= 86_400
    folder = server.state("account.json").parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {folder.name: 0o700, "account.json": 0o600, "asked.json": 0o600, "certificate.pem": 0o600}
    key = re.search(r'"key_pkcs8":"([^"]+)"', server.state("account.json").read_text())[1]
    server.stop()
    # It is shown at once, also while the authority is away; and what it is looked at for makes no order.
    looks = pebble.count("GET /dir")
    server = Acme(tmp_path, pebble, domains)
    assert server.shown(root) == first
    assert server.status("/readyz")[0] == 200
    eventually(lambda: pebble.count("GET /dir") > looks)
    server.stop()
    pebble.stop()
    server = Acme(tmp_path, pebble, domains)
    assert server.shown(root) == first
    server.stop()
    assert pebble.orders() == 1
    assert pebble.count("POST /sign-me-up") == 1
    assert not [line for line in server.said() if key in line]


def test_an_authority_that_is_away_at_the_start_holds_up_nothing_else(tmp_path, pebble):
    server = Acme(tmp_path, pebble, warns=True)
    eventually(lambda: server.metric("failures_total") >= 1)
    status, body = server.status("/readyz")
    assert (status, "certificate" in body) == (503, True)
    assert server.status("/healthz")[0] == 200
    assert server.metric("expiry_seconds") == 0
    for protocols in [["http/1.1"], ["acme-tls/1"]]:
        context = ssl.create_default_context()
        context.set_alpn_protocols(protocols)
        with sockets.create_connection((server.host, server.tls_port), timeout=10) as plain:
            with pytest.raises(ssl.SSLError, match="(?i)access.denied"):
                context.wrap_socket(plain, server_hostname=DOMAIN)
    assert server.said("no certificate could be got") and server.said("127.0.0.1")
    pebble.start()
    root = pebble.root()
    eventually(lambda: server.shown(root), 120)
    assert server.status("/readyz")[0] == 200
    server.stop()


def test_it_is_renewed_in_time_and_no_connection_breaks(tmp_path, pebble):
    pebble.config["certificateValidityPeriod"] = 15
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble)
    first = eventually(lambda: server.shown(root))
    # What is open stays open, whatever becomes of the certificate that it began with.
    with connect(f"wss://{DOMAIN}:{server.tls_port}/v1/ws", ssl=root, sock=sockets.create_connection(
            (server.host, server.tls_port), timeout=10)) as socket:
        socket.send(json.dumps({"type": "subscribe", "channel": "a", "id": 1}))
        assert json.loads(socket.recv(timeout=10))["type"] == "subscribed"
        second = eventually(lambda: server.shown(root) not in (None, first) and server.shown(root))
        kept = x509.load_pem_x509_certificate(server.state("certificate.pem").read_bytes())
        assert kept.serial_number != first and second != first
        socket.send(json.dumps({"type": "publish", "channel": "a", "data": "still here", "id": 2}))
        got = [json.loads(socket.recv(timeout=10)) for _ in range(2)]
        assert [message["data"] for message in got if message["type"] == "event"] == ["still here"]
    server.stop()


def test_an_authority_that_refuses_is_not_pressed_and_what_is_there_stays(tmp_path, pebble):
    pebble.config["domainBlocklist"] = ["refused.example"]
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble)
    first = eventually(lambda: server.shown(root))
    server.stop()
    server = Acme(tmp_path, pebble, [DOMAIN, "refused.example"], warns=True)
    assert server.shown(root) == first
    eventually(lambda: server.metric("failures_total") >= 2, 120)
    assert server.shown(root) == first and server.status("/readyz")[0] == 200
    assert all("refused.example" in line for line in server.said("no certificate could be got"))
    asked, failures = pebble.count("POST /order-plz"), server.metric("failures_total")
    assert asked <= 1 + failures + 1, "one for the first, and one for each failure and what is under way"
    # It is noted before it is done, so whoever starts the server again and again asks no more.
    assert len(json.loads(server.state("asked.json").read_text())["orders_ms"]) == asked
    server.stop()


def test_a_domain_that_leads_elsewhere_is_named_until_it_leads_here(tmp_path, pebble):
    pebble.start()
    pebble.resolve_to("127.0.0.2")
    root = pebble.root()
    server = Acme(tmp_path, pebble, warns=True)
    eventually(lambda: server.said("no certificate could be got"), 120)
    [line, *_] = server.said("no certificate could be got")
    assert f"{DOMAIN}: " in line and "127.0.0.2" in line, line
    pebble.resolve_to("127.0.0.1")
    eventually(lambda: server.shown(root), 180)
    server.stop()


def test_rejected_nonces_are_no_failure(tmp_path, pebble):
    pebble.environment["PEBBLE_WFE_NONCEREJECT"] = "15"
    pebble.start()
    root = pebble.root()
    # Three in a row may be rejected, which is one; then it is tried again.
    server = Acme(tmp_path, pebble, warns=True)
    eventually(lambda: server.shown(root), 180)
    assert pebble.orders() >= 1
    server.stop()


def test_there_is_a_bound_whoever_starts_the_server_how_often(tmp_path, pebble):
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble)
    eventually(lambda: server.shown(root))
    server.stop()
    now_ms = int(time.time() * 1000)
    server.state("asked.json").write_text(json.dumps({"orders_ms": [now_ms] * 10, "looks_ms": [now_ms] * 10}))
    server.state("certificate.pem").unlink()
    requests = pebble.count(" -> calling handler")
    server = Acme(tmp_path, pebble)
    eventually(lambda: server.said("within an hour"))
    assert server.metric("failures_total") == 0
    assert pebble.count(" -> calling handler") == requests
    server.stop("within an hour")


def test_an_authority_that_has_forgotten_the_account_is_told_of_it_again(tmp_path, pebble):
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble)
    eventually(lambda: server.shown(root))
    server.stop()
    # Pebble keeps nothing.
    pebble.stop()
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble, ["other.example.com"], warns=True)
    eventually(lambda: server.shown(root, "other.example.com"), 120)
    assert server.said("does not know the account")
    server.stop()


class Front:
    """A directory that names pebble's places, and says itself when to renew: from `window`, a function of how often it
    was asked. With a `refusal` (status, fields, body), that is all that it says."""

    def __init__(self, pebble, window=None, refusal=None):
        self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                self.asked.append(handler.path)
                if refusal:
                    return self.answer(handler, *refusal)
                if handler.path == "/dir":
                    with urllib.request.urlopen(pebble.url, context=pebble.trust, timeout=10) as directory:
                        places = json.loads(directory.read())
                    return self.answer(handler, 200, {}, {**places, "renewalInfo": f"{self.base}/ari"})
                number = len([path for path in self.asked if path.startswith("/ari/")])
                start, end = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) for moment in window(number)]
                self.answer(handler, 200, {"Retry-After": "21600"}, {"suggestedWindow": {"start": start, "end": end}})

            def log_message(handler, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.directory / "pebble.pem", pebble.directory / "pebble-key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.base = f"https://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def answer(handler, status, fields, content):
        body = json.dumps(content).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **fields}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def test_it_is_renewed_when_the_authority_says_so(tmp_path, pebble):
    pebble.start()
    root = pebble.root()
    # The first is to be replaced at once, as if it had been revoked; the next one much later.
    front = Front(pebble, lambda number: [time.time() - 100, time.time() - 50] if number == 1
                  else [time.time() + 40_000, time.time() + 50_000])
    # This authority does not take note of what is replaced, as it must: the order is made again without.
    server = Acme(tmp_path, pebble, url=f"{front.base}/dir", warns=True)
    first = eventually(lambda: server.shown(root))
    eventually(lambda: server.shown(root) not in (None, first), 120)
    looks = [path for path in front.asked if path.startswith("/ari/")]
    assert re.fullmatch(r"/ari/[\w-]+\.[\w-]+", looks[0]), looks
    eventually(lambda: len([path for path in front.asked if path.startswith("/ari/")]) == 2)
    assert len({path for path in front.asked if path.startswith("/ari/")}) == 2
    assert server.metric("changes_total") == 2
    server.stop()


@pytest.mark.parametrize(("refusal", "what"), [
    ((503, {"Retry-After": "5000"}, {}), "next_try_seconds=5000"),
    ((502, {"Content-Type": "text/html"}, "<html>"), "it answers with status 502"),
    ((200, {}, ["no directory"]), "JSON"),
    ((500, {"Content-Type": "application/problem+json"}, {"type": "x", "detail": "a\nb\x1b[31m" * 100_000}), "b"),
    ((200, {}, "x" * (2 << 20)), "no account could be made"),
    ((302, {"Location": "https://127.0.0.1:1/"}, {}), "no account could be made"),
])
def test_an_authority_that_is_none_is_said_to_be_and_left_alone(tmp_path, pebble, refusal, what):
    front = Front(pebble, refusal=refusal)
    server = Acme(tmp_path, pebble, url=f"{front.base}/dir", warns=True)
    [line] = eventually(lambda: server.said("no certificate could be got"))
    assert what in line and len(line) < 8000 and "\x1b[31m" not in line.split("reason=")[1], line
    assert front.asked == ["/dir"]
    server.stop()


def ended(directory, config, *flags):
    """What a server says that does not start; nothing may be bound, and `config check` must say the same."""
    path = pathlib.Path(directory) / "tidewire.toml"
    path.write_text(config)
    command = [BINARY, "serve", "--listen", "127.0.0.1:0", *(flags or ["--memory"]), "--config", path]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (outcome.returncode, outcome.stdout) == (1, ""), outcome
    return outcome.stderr


def test_damage_is_named_before_a_port_is_bound(tmp_path, pebble):
    pebble.start()
    root = pebble.root()
    server = Acme(tmp_path, pebble)
    eventually(lambda: server.shown(root))
    eventually(lambda: len(json.loads(server.state("asked.json").read_text())["looks_ms"]) == 1)
    server.stop()
    config = (tmp_path / "tidewire.toml").read_text()
    for name in ["account.json", "certificate.pem", "asked.json"]:
        path = server.state(name)
        good = path.read_bytes()
        for content in [b"nonsense", b"", good[: len(good) // 2], good[:-5]]:
            path.write_bytes(content)
            said = ended(tmp_path, config)
            assert f"{path} is damaged" in said and "remove it" in said, said
            assert good.decode()[30:60] not in said
            checked = subprocess.run([BINARY, "config", "check", "--memory", "--config", tmp_path / "tidewire.toml"],
                                     capture_output=True, text=True, timeout=20)
            assert (checked.returncode, str(path) in checked.stderr) == (1, True), checked
        path.write_bytes(good)
    server = Acme(tmp_path, pebble)
    assert server.shown(root)
    server.stop()
    assert pebble.orders() == 1


def test_mistakes_end_the_start_with_a_word(tmp_path, pebble):
    config = CONFIG.format(port=pebble.config["tlsPort"], domains='["a.example"]', directory=pebble.url,
                           authority=pebble.authority_file)
    said = functools.partial(ended, tmp_path)
    assert "tls.acme.state" in said(config.replace('"state"', '"/proc/nowhere"'))
    assert "tls.acme.state is needed with --memory" in said(config.replace('state = "state"', ""))
    assert "authorities as PEM" in said(config.replace(str(pebble.authority_file), "tidewire.toml"))
    assert "accept_terms must be true" in said(config.replace("accept_terms = true", ""))
    assert "wildcard" in said(config.replace("a.example", "*.example"))
    assert "two ways" in said(config.replace("[tls.acme]", 'certificate_file = "tidewire.toml"\n[tls.acme]'))
    checked = subprocess.run([BINARY, "config", "check", "--memory", "--config", tmp_path / "tidewire.toml"],
                             capture_output=True, text=True, timeout=20)
    assert checked.returncode == 1


def test_the_state_is_in_the_directory_of_data_if_nothing_else_is_said(tmp_path, pebble):
    pebble.start()
    root = pebble.root()
    data = tmp_path / "data"

    class WithData(Acme):
        def __init__(self):
            self.directory, self.tls_port = tmp_path, pebble.config["tlsPort"]
            config = CONFIG.format(port=self.tls_port, domains=json.dumps(DOMAIN), directory=pebble.url,
                                   authority=pebble.authority_file).replace('state = "state"', "")
            Server.__init__(self, tmp_path, config, data=data)

    server = WithData()
    first = eventually(lambda: server.shown(root))
    server.stop()
    assert len(list((data / "acme").glob("*/certificate.pem"))) == 1
    server = WithData()
    assert server.shown(root) == first
    server.stop()
    assert subprocess.run([BINARY, "check", data], capture_output=True, timeout=30).returncode == 0
