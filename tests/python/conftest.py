"""Starts the server under test. Must not know what is tested."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TIDEWIRE_BIN", ROOT / "target/debug/tidewire")


class Server:
    """A running server; `address` is HOST:PORT. With `warns`, it may say what it likes of its configuration."""

    def __init__(self, directory, config="", data=None, warns=False):
        self.warns = warns
        path = pathlib.Path(directory) / "tidewire.toml"
        path.write_text(config)
        self.log = open(pathlib.Path(directory) / "stderr", "w+")
        environment = {**os.environ, "TIDEWIRE_LOG__LEVEL": "warn"}
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--no-demo", "--config", str(path)]
        command += ["--data", str(data)] if data else ["--memory"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://"), line
        self.address = line.split("//")[1].strip()
        self.host, port = self.address.split(":")
        self.port = int(port)

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self, said=None):
        """Ends it. It must have logged nothing, or lines with `said` in them."""
        assert self.process.poll() is None, "the server died"
        self.process.terminate()
        assert self.process.wait(10) == 0
        self.log.seek(0)
        lines = self.log.read().splitlines()
        if not self.warns:
            assert bool(lines) == (said is not None), lines
            assert all(said in line for line in lines), lines


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """A server with the configuration that the module names in CONFIG."""
    running = Server(tmp_path_factory.mktemp("server"), getattr(request.module, "CONFIG", ""))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def address(server):
    return server.address
