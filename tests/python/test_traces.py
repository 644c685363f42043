"""Traces from a publisher to the fan-out, through the real collector, and that they harm nobody. Must not know how
the collector is run."""

import json
import re
import time

import pytest
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from websockets.sync.client import connect

from collector import Collector, Sink
from conftest import Server
from test_access import ADMIN_KEY, ask

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
CHANNELS = """
[[channels]]
pattern = "memory:*"
durability = "memory"
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    running = Collector(tmp_path_factory.mktemp("collector"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def traced(collector, tmp_path_factory):
    directory = tmp_path_factory.mktemp("traced")
    config = f'shards = 2\n[traces]\nendpoint = "{collector.url}/"\nservice = "delivery"\n{CHANNELS}'
    server = Server(directory, config, data=directory / "data")
    yield server
    server.stop()


def publish(server, channel, **headers):
    return ask(server, "POST", f"/v1/channels/{channel}/events", body=b"x", **headers)


def names(spans):
    return sorted(span["name"] for span in spans)


def counts(server):
    text = ask(server, "GET", "/metrics")[2].decode()
    found = re.findall(r"^(tidewire_trace\S+) (\d+)$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("channel", ["memory:a", "disk:a"])
def test_one_trace_from_the_publisher_to_the_fan_out(traced, collector, channel):
    """The publisher is OpenTelemetry's own library; the subscribers are on both shards."""
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    before = time.time_ns()
    sockets = [connect(f"ws://{traced.address}/v1/ws") for _ in range(4)]
    for socket in sockets:
        socket.send(json.dumps({"type": "subscribe", "channel": channel}))
        assert json.loads(socket.recv(10))["type"] == "subscribed"
    headers = {}
    with provider.get_tracer("test").start_as_current_span("order") as order:
        propagate.inject(headers)
        headers["tracestate"] = "shop=1"
        status, _, body = publish(traced, channel, **headers)
    assert status == 201
    assert all(json.loads(socket.recv(10))["id"] == body["id"] for socket in sockets)
    [socket.close() for socket in sockets]
    trace = f"{order.get_span_context().trace_id:032x}"
    parts = ["commit"] if channel.startswith("disk") else []
    wanted = sorted(["order", "publish", "fan-out", "fan-out", *parts])
    spans = collector.sink.wait_for(lambda spans: names(span for span in spans if span["traceId"] == trace) == wanted)
    spans = [span for span in spans if span["traceId"] == trace]
    own = [span for span in spans if span["service"]["service.name"] == "delivery"]
    published = next(span for span in own if span["name"] == "publish")
    assert published["parentSpanId"] == f"{order.get_span_context().span_id:016x}"
    assert published["kind"] == 2 and all(span["traceState"] == "shop=1" for span in own)
    assert published["about"] == {
        "messaging.system": "tidewire",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": channel,
        "messaging.message.id": body["id"],
        "network.protocol.name": "http",
        "tidewire.duplicate": "false",
    }
    others = [span for span in own if span is not published]
    assert all(span["parentSpanId"] == published["spanId"] for span in others)
    fan_outs = [span["about"] for span in others if span["name"] == "fan-out"]
    assert sorted(about["tidewire.shard"] for about in fan_outs) == [0, 1]
    assert sum(about["tidewire.subscribers"] for about in fan_outs) == 4
    for span in own:
        begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        # The wall clock is read in milliseconds.
        assert before - 5_000_000 <= begin <= end <= time.time_ns() + 5_000_000
        assert int(published["startTimeUnixNano"]) <= begin


def test_over_a_websocket_and_a_publish_that_is_refused(traced, collector):
    trace = TRACE.replace("0", "1")
    message = {"type": "publish", "channel": "memory:b", "data": 1, "traceparent": SAMPLED.replace(TRACE, trace)}
    with connect(f"ws://{traced.address}/v1/ws") as socket:
        for more in [{}, {"idempotency_key": "k"}, {"idempotency_key": "k"}, {"idempotency_key": "k", "data": 2}]:
            socket.send(json.dumps(message | more))
            answer = json.loads(socket.recv(10))
    assert answer["code"] == "idempotency_conflict"
    spans = collector.sink.wait_for(lambda spans: sum(span["traceId"] == trace for span in spans) == 4)
    spans = [span for span in spans if span["traceId"] == trace]
    assert {span["about"]["network.protocol.name"] for span in spans} == {"websocket"}
    assert [span["about"].get("tidewire.duplicate") for span in spans] == ["false", "false", "true", None]
    assert spans[3]["status"] == {"code": 2, "message": "idempotency_conflict"}


def test_who_does_not_ask_for_it_is_not_traced(traced, collector):
    before = counts(traced)["tidewire_trace_spans_exported_total"]
    for header in [None, SAMPLED[:-1] + "0", SAMPLED.upper(), f"{SAMPLED}-more", "x", "00-" + "0" * 32 + SAMPLED[35:]]:
        assert publish(traced, "memory:c", **({"traceparent": header} if header else {}))[0] == 201
    last = TRACE.replace("0", "2")
    assert publish(traced, "memory:c", traceparent=SAMPLED.replace(TRACE, last))[0] == 201
    collector.sink.wait_for(lambda spans: any(span["traceId"] == last for span in spans))
    eventually(lambda: counts(traced)["tidewire_trace_spans_exported_total"] == before + 1)


def test_by_chance_and_not_too_many(collector, tmp_path):
    config = f'[traces]\nendpoint = "{collector.url}"\nper_million = 1000000\nper_second = 3\n'
    server = Server(tmp_path, config)
    begun = time.monotonic()
    for number in range(60):
        assert publish(server, "d")[0] == 201
    took = time.monotonic() - begun
    eventually(lambda: (found := counts(server))["tidewire_trace_spans_exported_total"]
               + found["tidewire_traces_skipped_total"] == 60)
    assert 3 <= counts(server)["tidewire_trace_spans_exported_total"] <= 3 + 3 * (took + 1)
    server.stop()


def test_a_stranger_cannot_ask_for_it(tmp_path):
    sink = Sink()
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    (tmp_path / "admin.key").chmod(0o600)
    (tmp_path / "collector.key").write_text("Bearer of spans\n")
    (tmp_path / "collector.key").chmod(0o600)
    config = f"""
rights.publish = "anyone"
auth.admin_key_file = "admin.key"
[traces]
endpoint = "http://127.0.0.1:{sink.port}"
authorization_file = "collector.key"
"""
    server = Server(tmp_path, config)
    assert publish(server, "e", traceparent=SAMPLED)[0] == 201
    known = ask(server, "POST", "/v1/channels/e/events", body=b"x", key=ADMIN_KEY, traceparent=SAMPLED)
    assert known[0] == 201
    spans = sink.wait_for(lambda spans: spans)
    assert [span["about"]["messaging.message.id"] for span in spans] == [known[2]["id"]]
    headers = {name.lower(): value for name, value in sink.headers[0].items()}
    assert headers["authorization"] == "Bearer of spans" and headers["content-type"] == "application/json"
    server.stop()
    sink.stop()


def test_what_is_under_way_is_sent_at_the_end(tmp_path):
    sink = Sink()
    server = Server(tmp_path, f'[traces]\nendpoint = "http://127.0.0.1:{sink.port}"\n')
    assert publish(server, "f", traceparent=SAMPLED)[0] == 201
    server.stop()
    assert names(sink.spans) == ["publish"]
    sink.stop()


def test_a_collector_that_is_away_harms_nobody(tmp_path):
    sink = Sink()
    sink.status = 503
    server = Server(tmp_path, f'[traces]\nendpoint = "http://127.0.0.1:{sink.port}"\nper_second = 100000\n')
    for number in range(50):
        assert publish(server, "g", traceparent=SAMPLED)[0] == 201
    dropped = 'tidewire_trace_spans_dropped_total{reason="collector"}'
    eventually(lambda: counts(server)[dropped] > 0)
    assert len(sink.headers) >= 3, "it tried again"
    sink.status = 200
    assert publish(server, "g", traceparent=SAMPLED)[0] == 201
    eventually(lambda: counts(server)["tidewire_trace_spans_exported_total"] > 0)
    sink.stop()
    assert publish(server, "g", traceparent=SAMPLED)[0] == 201
    server.stop(said="the collector does not take traces")
