"""The real OpenTelemetry collector, and where it sends what it took. Must not know what is traced."""

import http.server
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TIDEWIRE_COLLECTOR", ROOT / "target/test-tools/collector")

CONFIG = """
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  otlp_http:
    traces_endpoint: http://127.0.0.1:{sink}/
    encoding: json
    compression: none
service:
  telemetry:
    metrics:
      level: none
    logs:
      level: warn
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [otlp_http]
"""


def value_of(value):
    kind, value = next(iter(value.items()))
    return int(value) if kind == "intValue" else value


def attributes_of(thing):
    return {each["key"]: value_of(each["value"]) for each in thing.get("attributes", [])}


class Sink:
    """Takes OTLP over HTTP as JSON, with a status that tests choose."""

    def __init__(self):
        self.spans, self.status, self.headers = [], 200, []
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.headers.append(dict(self.headers))
                if sink.status == 200:
                    sink.add(json.loads(body))
                self.send_response(sink.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, request):
        for resource in request["resourceSpans"]:
            about = attributes_of(resource["resource"])
            for scope in resource["scopeSpans"]:
                self.spans += [{**span, "service": about, "about": attributes_of(span)} for span in scope["spans"]]

    def wait_for(self, wanted, seconds=20):
        """The spans for which `wanted(spans)` holds at last."""
        deadline = time.monotonic() + seconds
        while not wanted(list(self.spans)):
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.05)
        return list(self.spans)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Collector:
    """The collector, in front of a sink."""

    def __init__(self, directory):
        self.sink = Sink()
        for attempt in range(5):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
            config = pathlib.Path(directory) / "collector.yaml"
            config.write_text(CONFIG.format(port=self.port, sink=self.sink.port))
            self.process = subprocess.Popen([BINARY, "--config", config], stderr=subprocess.PIPE)
            if self.is_up():
                return
            # Somebody else may have taken the port meanwhile.
            said = self.process.communicate(timeout=10)[1]
        raise AssertionError(said)

    def is_up(self):
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=20)
        self.sink.stop()
