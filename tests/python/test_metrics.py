"""What /metrics says, read by Prometheus' own parser, by promtool and by a real Prometheus; and that the page, the
dashboard and the alerts speak of what is there. Must not know how it is counted.
"""

import json
import re
import socket as sockets
import struct
import subprocess
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker import Redis
from conftest import ROOT, Server
from pebble import free_port
from prometheus import Prometheus
from test_access import ask, publish, receive, say, socket, stream
from test_tls import write_certificate

CONFIG = "shards = 2\n"
TLS = '[tls]\nlisten = "127.0.0.1:0"\ncertificate_file = "certificate.pem"\nkey_file = "key.pem"\n'
DASHBOARD = json.loads((ROOT / "deploy/grafana/tidewire.json").read_text())
ALERTS = ROOT / "deploy/prometheus/alerts.yml"


def scrape(server):
    status, headers, text = ask(server, "GET", "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return text.decode()


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(server):
    """Every sample by its name and labels."""
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in families(scrape(server)).values() for sample in family.samples}


class Change:
    """How much each sample rose since."""

    def __init__(self, server):
        self.server, self.before = server, samples(server)

    def of(self, name, **labels):
        key = (name, *sorted(labels.items()))
        return samples(self.server)[key] - self.before[key]


def eventually(condition, seconds=10):
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    directory = tmp_path_factory.mktemp("metrics")
    write_certificate(directory)
    traces = f'[traces]\nendpoint = "http://127.0.0.1:{free_port()}"\n'
    running = Server(directory, CONFIG + TLS + traces, data=directory / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shared")
    redis = Redis(directory / "redis")
    running = Server(directory, f'backplane = "{redis.url}"\n' + CONFIG)
    yield running
    running.stop()
    redis.kill()


def test_the_format_is_right(server, on_disk, shared):
    for one in [server, on_disk, shared]:
        publish(one, "a", "x")
        text = scrape(one)
        subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True, capture_output=True)
        told = {kind: re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE) for kind in ["HELP", "TYPE"]}
        assert told["HELP"] == told["TYPE"] and len(set(told["HELP"])) == len(told["HELP"])
        parsed = families(text)
        assert len(parsed) == len(told["HELP"])
        for family in parsed.values():
            assert family.type in ["counter", "gauge", "histogram"] and family.documentation.endswith("."), family
            assert family.samples, family.name
        # What the parser makes of it is all that is there.
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert sum(len(family.samples) for family in parsed.values()) == len(lines)


def test_histograms_add_up(server):
    with socket(server) as one:
        say(one, type="subscribe", channel="sum")
        for number in range(20):
            publish(server, "sum", str(number))
            receive(one)
    parsed = families(scrape(server))
    histogram = {sample.name.rsplit("_", 1)[1]: sample.value for sample in parsed["tidewire_delivery_seconds"].samples}
    buckets = [sample for sample in parsed["tidewire_delivery_seconds"].samples if sample.name.endswith("_bucket")]
    ends = [float(bucket.labels["le"]) for bucket in buckets]
    counts = [bucket.value for bucket in buckets]
    assert ends == sorted(ends) and ends[-1] == float("inf")
    assert counts == sorted(counts) and counts[-1] == histogram["count"] >= 20


def test_events_are_counted_on_every_transport(server):
    with socket(server) as one:
        say(one, type="subscribe", channel="way")
        connection, answer = stream(server, "/v1/channels/way/events")
        eventually(lambda: samples(server)[("tidewire_subscriptions",)] == 2)
        change = Change(server)
        for number in range(5):
            assert publish(server, "way", f"event {number}", Idempotency_Key=f"k{number}")[0] == 201
            receive(one)
        assert publish(server, "way", "event 0", Idempotency_Key="k0")[0] == 200
        assert say(one, type="publish", channel="other", data=1)["type"] == "published"
        assert change.of("tidewire_events_published_total") == 6
        assert change.of("tidewire_events_repeated_total") == 1
        assert change.of("tidewire_events_delivered_total", transport="websocket") == 5
        eventually(lambda: change.of("tidewire_events_delivered_total", transport="sse") == 5)
        # A batch for each event and for each shard with a subscriber of it.
        assert change.of("tidewire_delivery_seconds_count") in [5, 10]
        page = ask(server, "GET", "/v1/channels/way/events?limit=3")[2]
        assert change.of("tidewire_events_delivered_total", transport="http") == 3
        ask(server, "GET", f"/v1/channels/way/events?wait=5&since={page['cursor']}")
        assert change.of("tidewire_events_delivered_total", transport="long_poll") == 2
        connection.close()


def test_a_held_poll_counts_what_it_gets(server):
    change = Change(server)
    answers = []
    path = "/v1/channels/held/events?wait=20&since=latest"
    polls = [threading.Thread(target=lambda: answers.append(ask(server, "GET", path, timeout=30)[2])) for _ in range(3)]
    [poll.start() for poll in polls]
    eventually(lambda: change.of("tidewire_connections", transport="long_poll") == 3)
    publish(server, "held", "x")
    [poll.join(10) for poll in polls]
    assert [len(answer["events"]) for answer in answers] == [1, 1, 1]
    assert change.of("tidewire_events_delivered_total", transport="long_poll") == 3
    assert change.of("tidewire_connections", transport="long_poll") == 0


def test_bytes_are_all_bytes(server):
    change = Change(server)
    body = "x" * 50_000
    assert publish(server, "big", body)[0] == 201
    assert 50_000 < change.of("tidewire_read_bytes_total") < 52_000
    before = change.of("tidewire_written_bytes_total")
    ask(server, "GET", "/v1/channels/big/events")
    # A scrape is answered in between.
    assert 50_000 < change.of("tidewire_written_bytes_total") - before < 70_000


def test_gaps_that_are_told(tmp_path):
    server = Server(tmp_path, CONFIG + "[history]\nevents = 5\n")
    change = Change(server)
    first = publish(server, "gap", "x")[2]["id"]
    [publish(server, "gap", "x") for _ in range(20)]
    for number, path in enumerate([f"/v1/channels/gap/events?since={first}", "/v1/channels/gap/events?since=x34azrttv9-1",
                                   f"/v1/channels/gap/events?since={first}&wait=1"], 1):
        assert ask(server, "GET", path)[2].get("gap"), path
        assert change.of("tidewire_gaps_total") == number
    # Who has the answer already is not told again.
    headers = ask(server, "GET", f"/v1/channels/gap/events?since={first}")[1]
    status = ask(server, "GET", f"/v1/channels/gap/events?since={first}", If_None_Match=headers["ETag"])[0]
    assert (status, change.of("tidewire_gaps_total")) == (304, 4)
    connection, answer = stream(server, f"/v1/channels/gap/events?since={first}")
    assert change.of("tidewire_gaps_total") == 5
    connection.close()
    with socket(server) as one:
        say(one, type="subscribe", channel="gap", since=first)
        assert receive(one)["type"] == "gap"
        assert change.of("tidewire_gaps_total") == 6
    server.stop()


def blocked(server, channel):
    """A WebSocket subscriber that reads nothing after its handshake and has little room for what comes."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect((server.host, server.port))
    raw.sendall(f"GET /v1/channels/{channel}/ws HTTP/1.1\r\nHost: {server.address}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
    assert b"101" in raw.recv(1000)
    return raw


def test_lag_is_seen_until_the_slow_consumer_is_closed(tmp_path):
    server = Server(tmp_path, CONFIG + "[limits]\nlag_events = 300\n")
    change = Change(server)
    with blocked(server, "lag") as raw:
        eventually(lambda: change.of("tidewire_subscriptions") == 1)
        body = "x" * 20_000
        with socket(server) as publisher:
            def publish_one():
                assert say(publisher, type="publish", channel="lag", data=body)["type"] == "published"
            while change.of("tidewire_subscriptions_behind") == 0:
                [publish_one() for _ in range(20)]
            lag = eventually(lambda: samples(server)[("tidewire_lag_events",)])
            assert 0 < lag <= 320 and change.of("tidewire_slow_consumers_total", reason="lag") == 0
            while change.of("tidewire_slow_consumers_total", reason="lag") == 0:
                [publish_one() for _ in range(20)]
        eventually(lambda: change.of("tidewire_subscriptions") == 0)
        assert samples(server)[("tidewire_lag_events",)] == 0
        assert change.of("tidewire_slow_consumers_total", reason="stall") == 0
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    server.stop()


def test_a_stalled_consumer_is_closed_for_that(tmp_path):
    server = Server(tmp_path, CONFIG + "[limits]\nstall_timeout_ms = 300\n")
    change = Change(server)
    with blocked(server, "stall"):
        eventually(lambda: change.of("tidewire_subscriptions") == 1)
        for _ in range(60):
            publish(server, "stall", "x" * 100_000)
        eventually(lambda: change.of("tidewire_slow_consumers_total", reason="stall") == 1)
        assert change.of("tidewire_slow_consumers_total", reason="lag") == 0
    server.stop()


def test_why_connections_are_refused(tmp_path):
    server = Server(tmp_path, CONFIG + "limits.connections = 3\n")
    change = Change(server)
    held = [socket(server) for _ in range(2)]
    scraper = sockets.create_connection((server.host, server.port))
    eventually(lambda: ask(server, "GET", "/healthz")[0] == 503)
    scraper.sendall(f"GET /metrics HTTP/1.1\r\nHost: {server.address}\r\nConnection: close\r\n\r\n".encode())
    text = b"".join(iter(lambda: scraper.recv(65536), b"")).decode()
    assert re.search(r'^tidewire_connections_refused_total{reason="full"} [1-9]', text, re.MULTILINE)
    assert 'tidewire_connections_refused_total{reason="address"} 0' in text
    assert "\ntidewire_connections_limit 3\n" in text
    [one.close() for one in held]
    eventually(lambda: ask(server, "GET", "/healthz")[0] == 200)
    assert change.of("tidewire_refused_total", code="unavailable") >= 1
    server.stop()


def test_file_descriptors_and_the_process(server):
    before = samples(server)
    assert before[("tidewire_build_info", ("version", "0.1.0"))] == 1
    assert abs(before[("process_resident_memory_bytes",)] - server.resident_bytes()) < 20 << 20
    assert 0 <= time.time() - before[("process_start_time_seconds",)] < 600
    held = [sockets.create_connection((server.host, server.port)) for _ in range(40)]
    eventually(lambda: samples(server)[("process_open_fds",)] >= before[("process_open_fds",)] + 40)
    by_shard = {dict(key[1:])["shard"]: value for key, value in samples(server).items()
                if key[0] == "tidewire_shard_connections"}
    assert sorted(by_shard) == ["0", "1"] and min(by_shard.values()) >= 20
    [one.close() for one in held]
    eventually(lambda: samples(server)[("process_open_fds",)] <= before[("process_open_fds",)] + 1)
    assert before[("process_open_fds",)] < before[("process_max_fds",)]


def test_a_shard_that_waits_is_not_busy(server):
    key = "tidewire_shard_busy_seconds_total"
    change, begun = Change(server), time.time()
    time.sleep(1)
    for shard in "01":
        assert change.of(key, shard=shard) < 0.3
    stop = threading.Event()

    def load():
        with socket(server) as one:
            while not stop.is_set():
                for _ in range(200):
                    one.send('{"type":"publish","channel":"busy","data":1}')
                for _ in range(200):
                    receive(one)

    change, thread = Change(server), threading.Thread(target=load)
    thread.start()
    eventually(lambda: change.of(key, shard="0") + change.of(key, shard="1") > 0.2, 30)
    stop.set()
    thread.join(10)
    assert change.of(key, shard="0") + change.of(key, shard="1") < 2 * (time.time() - begun)


def test_history_by_where_it_is_kept(on_disk):
    change = Change(on_disk)
    for _ in range(10):
        publish(on_disk, "kept", "x" * 100)
    assert 1 <= change.of("tidewire_disk_commit_seconds_count") <= 10
    eventually(lambda: change.of("tidewire_history_events", durability="disk") == 10)
    assert change.of("tidewire_history_bytes", durability="disk") == 1000
    assert change.of("tidewire_history_events", durability="memory") == 0
    assert samples(on_disk)[("tidewire_disk_bytes",)] > 0
    assert samples(on_disk)[("tidewire_disk_failed",)] == 0
    assert ask(on_disk, "DELETE", "/v1/channels/kept")[0] == 204
    eventually(lambda: change.of("tidewire_history_events", durability="disk") == 0)


def test_a_backplane_is_seen_to_answer_and_to_be_away(tmp_path):
    redis = Redis(tmp_path / "redis")
    shared = Server(tmp_path, f'backplane = "{redis.url}"\nlimits.backplane_timeout_ms = 500\n')
    change = Change(shared)
    for _ in range(10):
        publish(shared, "kept", "x")
    assert change.of("tidewire_backplane_answer_seconds_count") == 10
    assert samples(shared)[("tidewire_backplane_away", ("server", "0"))] == 0
    redis.kill()
    eventually(lambda: samples(shared)[("tidewire_backplane_away", ("server", "0"))] == 1)
    assert samples(shared)[("tidewire_backplane_waiting_bytes", ("server", "0"))] == 0
    redis.start()
    eventually(lambda: samples(shared)[("tidewire_backplane_away", ("server", "0"))] == 0)
    publish(shared, "kept", "x")
    shared.stop(said="the backplane at")
    redis.kill()


def test_the_number_of_series_depends_on_nothing_that_clients_choose(server):
    before = set(samples(server))
    for number in range(100):
        publish(server, f"c{number}", "x", Tidewire_Event=f"e{number}", Tidewire_Key=f"k{number}")
        ask(server, "GET", f"/nothing/{number}")
        ask(server, "GET", f"/v1/channels/c{number}/events?since=x{number}")
        ask(server, f"VERB{number}", "/v1/ws")
    with socket(server) as one:
        for number in range(100):
            assert say(one, type=f"nonsense{number}")["code"] == "unknown_type"
    assert set(samples(server)) == before


def expressions():
    """All queries of the dashboard and the alerts, by where they are."""
    found = {f"{panel['title']} {target['refId']}": target["expr"]
             for panel in DASHBOARD["panels"] for target in panel.get("targets", [])}
    lines = re.sub(r">\n\s+", "", ALERTS.read_text())
    lines = re.sub(r"\n {10}(?=\S)", " ", lines)
    for name, text in re.findall(r"- alert: (\w+)\n\s+expr: (.*)", lines):
        found[name] = text
    return found


def test_the_dashboard_and_the_alerts_ask_for_what_is_there(on_disk, shared):
    there = {**samples(on_disk), **samples(shared)}
    names = {key[0] for key in there}
    values = {(label, value) for key in there for label, value in key[1:]}
    found = expressions()
    assert len(found) > 50
    for place, text in found.items():
        asked = re.findall(r"\b(?:tidewire|process)_\w+", text)
        assert asked or place == "TidewireDown", place
        assert [name for name in asked if name not in names] == [], place
        for label, matcher in re.findall(r'(\w+)=~?"([^"$]*)"', text):
            for value in matcher.split("|"):
                assert (label, value) in values or label == "job", (place, label, value)
    # And each metric is somewhere to be seen.
    shown = {name for text in found.values() for name in re.findall(r"\b(?:tidewire|process)_\w+", text)}
    missing = [name for name in names if re.sub("_(bucket|sum|count)$", "_bucket", name) not in shown and
               name not in shown]
    assert missing == []
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])


def test_the_page_and_metrics_agree(on_disk, shared):
    page = (ROOT / "docs/monitoring.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram)\b", page, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)", scrape(on_disk) + scrape(shared), re.MULTILINE))
    assert rows == kinds
    labels = {name: set(re.findall(r"`(\w+)`", row)) for name, row in
              re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram),? ?([^|]*) \|", page, re.MULTILINE)}
    for key in {**samples(on_disk), **samples(shared)}:
        name = re.sub("_(bucket|sum|count)$", "", key[0]) if key[0] not in labels else key[0]
        assert labels[name] == {label for label, _ in key[1:] if label != "le"}, key
    alerts = set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    assert set(re.findall(r"`(Tidewire\w+)`", page)) | {"TidewireDown"} == alerts


def test_a_real_prometheus_finds_an_answer_to_every_query(on_disk, shared, tmp_path):
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True)
    prometheus = Prometheus(tmp_path, [on_disk.address, shared.address], ALERTS)
    stop = threading.Event()

    def load():
        with socket(on_disk) as one:
            say(one, type="subscribe", channel="load")
            while not stop.is_set():
                publish(on_disk, "load", "x")
                publish(shared, "load", "x")
                receive(one)
                ask(on_disk, "GET", "/nothing")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        eventually(lambda: any(sample["value"][1] != "0" for sample in prometheus.query("up")), 30)
        for name in ["delivery", "backplane_answer"]:
            eventually(lambda: prometheus.query(f"rate(tidewire_{name}_seconds_count[5s]) > 0"), 30)
        for place, text in expressions().items():
            text = text.replace("$__rate_interval", "5s").replace("$job", "tidewire").replace("$instance", ".*")
            is_alert = place.startswith("Tidewire")
            # Nothing has reached a limit, and nothing is wrong.
            is_empty = is_alert or text.endswith(" > 0") and "code" not in text
            assert bool(prometheus.query(text)) != is_empty, (place, text)
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == len([place for place in expressions() if place.startswith("Tidewire")])
        eventually(lambda: all(rule["health"] == "ok" for group in prometheus.get("rules")["groups"]
                               for rule in group["rules"]), 30)
    finally:
        stop.set()
        thread.join(10)
        prometheus.stop()
