"""`tidewire doctor` through proxies that are each broken in one way: that fault is named, and no other.

The visits wait much and work little, so they are made side by side. Must not know how the doctor looks.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import time

import jwt
import pytest

from conftest import BINARY, Server
from doctor_cases import AUTHENTICATED, CASES, HTTP_1_1, NOTES, PAGE, SERVERS, UPGRADE, through_nginx
from identity import Authority
from proxies import Relay, nginx

SECRET = "a secret that only this test and its server know"
FAKETIME = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def run(url, *arguments, **environment):
    command = [BINARY, "doctor", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("servers")
    (directory / "secret").write_text(SECRET)
    (directory / "secret").chmod(0o600)
    configurations = {**SERVERS, "authenticated": AUTHENTICATED.format(page=PAGE, directory=directory)}
    with contextlib.ExitStack() as stack:

        def serve(name, configuration):
            (directory / name).mkdir()
            # A server that is open to all pages warns of it.
            server = Server(directory / name, configuration, warns=name == "open")
            stack.callback(server.stop)
            return server

        servers = {name: serve(name, configuration) for name, configuration in configurations.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(FAKETIME))
            patch.setenv("FAKETIME", "+1h")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            servers["ahead"] = serve("ahead", SERVERS["plain"])
        yield servers


@pytest.fixture(scope="module")
def visits(servers, tmp_path_factory):
    """All visits, begun at once."""
    directory = tmp_path_factory.mktemp("proxies")
    now = int(time.time())
    rights = {"subscribe": ["*"], "history": ["*"], "publish": ["*"]}
    token = jwt.encode({"sub": "ann", "iat": now, "exp": now + 600, "tidewire": rights}, SECRET, "HS256")

    def visit(name, url):
        case = CASES[name]
        given = {"TIDEWIRE_TOKEN": token} if case.server == "authenticated" else {}
        return run(url, "--json", *case.arguments, **given)

    with contextlib.ExitStack() as stack:
        urls = {}
        for name, case in CASES.items():
            path = case.path(directory / name, servers[case.server].address)
            urls[name] = path.url if path else f"http://{servers[case.server].address}"
            if path:
                stack.callback(path.stop)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(8))
        # Those that wait longest go first.
        order = sorted(CASES, key=lambda name: "--quick" in CASES[name].arguments)
        yield {name: pool.submit(visit, name, urls[name]) for name in order}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named_and_nothing_else(visits, name):
    case, done = CASES[name], visits[name].result()
    report = json.loads(done.stdout)
    found = {(finding["code"], finding["transport"]) for finding in report["findings"]}
    assert found == case.found, done.stdout
    broken = {code for code, _ in found} - NOTES
    assert (done.returncode, report["result"]) == ((1, "broken") if broken else (0, "fine")), done.stderr
    states = {entry["transport"]: entry["state"] for entry in report["transports"]}
    for way, state in states.items():
        if any(code not in NOTES and where == way for code, where in found):
            assert state == "broken", done.stdout
        else:
            assert state != "broken", done.stdout
    for finding in report["findings"]:
        assert finding["observed"] and finding["mends"], finding
        assert finding["weight"] == ("note" if finding["code"] in NOTES else "problem")


@pytest.mark.parametrize("name", ["direct", "nginx", "haproxy"])
def test_a_healthy_path_is_measured(visits, name):
    report = json.loads(visits[name].result().stdout)
    assert [entry["state"] for entry in report["transports"]] == ["works"] * 5
    assert 450 <= report["heartbeat_ms"] <= 1500, report
    assert [unchecked["what"] for unchecked in report["unchecked"]] == ["whether cookies arrive"]


def observed(visits, name, code):
    report = json.loads(visits[name].result().stdout)
    return " ".join(finding["observed"] for finding in report["findings"] if finding["code"] == code)


def test_findings_have_figures(visits):
    assert "after 2." in observed(visits, "nginx_idle", "idle_timeout_short")
    assert "status 504" in observed(visits, "nginx_idle", "idle_timeout_short")
    assert "131072 more bytes" in observed(visits, "nginx_buffered", "response_buffered")
    assert "of 10 long polls" in observed(visits, "nginx_four_connections", "connection_limit")
    assert "4 had their answer" in observed(visits, "nginx_four_connections", "connection_limit")
    assert "waited for others" in observed(visits, "haproxy_queue", "connection_limit")
    assert "too_many_requests" in observed(visits, "own_limit", "connection_limit")
    assert "x-cache-status: HIT" in observed(visits, "nginx_cached", "stream_cached")
    assert "s ahead of" in observed(visits, "server_clock", "clock_wrong")
    assert "(the Date header)" in observed(visits, "haproxy_date", "clock_wrong")
    assert "heartbeats before" in observed(visits, "short_lives", "stream_cut")


def test_a_person_is_told_the_same_with_what_mends_it(servers, tmp_path):
    proxy = through_nginx(upgrade="")(tmp_path / "nginx", servers["plain"].address)
    try:
        done = run(proxy.url, "--quick", "--origin", PAGE)
    finally:
        proxy.stop()
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("websocket")] == ["BROKEN", "BROKEN"]
    assert "upgrade_stripped" in lines and "1 thing is wrong" == lines[-1], done.stdout
    assert "proxy_set_header Upgrade $http_upgrade" in done.stdout


def test_over_tls_with_an_authority_of_ones_own(servers, tmp_path):
    authority = Authority(tmp_path)
    key, certificate = authority.server_files
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    location = f"location / {{ proxy_pass http://{servers['plain'].address}; {HTTP_1_1} {UPGRADE} }}"
    for name, listen, found in [("http1", "ssl", ["only_http_1"]), ("http2", "ssl http2", [])]:
        proxy = nginx(tmp_path / name, tls + location, listen=listen)
        url = proxy.url.replace("http://127.0.0.1", "https://localhost")
        try:
            trusted = {"SSL_CERT_FILE": str(authority.file)}
            done = run(url, "--quick", "--json", "--origin", PAGE, **trusted)
            publish = [BINARY, "pub", "tls", "x", "--url", url]
            published = subprocess.run(publish, env={**os.environ, **trusted}, capture_output=True, timeout=30)
            read = [BINARY, "sub", "tls", "--url", url, "--since", "earliest", "--count", "1", "--transport"]
            events = [
                subprocess.check_output([*read, transport], env={**os.environ, **trusted}, timeout=30)
                for transport in ("ws", "sse", "long-poll", "poll")
            ]
            distrusted = run(url, "--quick", "--json")
        finally:
            proxy.stop()
        report = json.loads(done.stdout)
        assert done.returncode == 0, done.stdout
        assert [finding["code"] for finding in report["findings"]] == found
        assert [entry["state"] for entry in report["transports"]] == ["works"] * 5
        assert published.returncode == 0, published.stderr
        assert events == [b"x\n"] * 4
        assert distrusted.returncode == 2 and "ertificate" in distrusted.stderr, distrusted.stderr


def test_what_cannot_be_reached_is_another_status(servers, tmp_path):
    dead = Relay("127.0.0.1", 1, 1)
    dead.stop()
    others = "location /moved/ { return 301 https://example.com/; } location /else/ { return 200 hi; }"
    before = through_nginx(more=others)
    nowhere = before(tmp_path / "nginx", dead.url.removeprefix("http://"))
    try:
        for url, word in [
            (dead.url, "no connection"),
            (nowhere.url, "status 502"),
            (nowhere.url + "/moved", "points to https://example.com/"),
            (nowhere.url + "/else", "no Tidewire answers there"),
            ("ftp://127.0.0.1", "must begin with http"),
        ]:
            done = run(url, "--quick", "--json")
            assert done.returncode == 2 and word in done.stderr, (url, done)
            if word != "must begin with http":
                assert json.loads(done.stdout)["result"] == "unreachable"
    finally:
        nowhere.stop()
    assert run("http://127.0.0.1:1", "--no-such-option").returncode == 2
