"""A real Prometheus that scrapes servers. Must not know what is scraped."""

import json
import os
import pathlib
import subprocess
import time
import urllib.parse
import urllib.request


def listening_port(pid):
    """The TCP port on which a process listens, once it does."""
    sockets = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor))
        except FileNotFoundError:
            pass  # closed meanwhile
    for table in ["tcp", "tcp6"]:
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                return int(fields[1].rsplit(":", 1)[1], 16)
    return None


class Prometheus:
    def __init__(self, directory, addresses, rules):
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "tidewire", "static_configs": [{"targets": addresses}]}],
        }
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self.log = open(directory / "prometheus.log", "w+")
        command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                   "--web.listen-address=127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=directory)
        deadline = time.time() + 30
        while (port := listening_port(self.process.pid)) is None:
            assert self.process.poll() is None and time.time() < deadline, self.said()
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, text):
        return self.get("query", query=text)["result"]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
