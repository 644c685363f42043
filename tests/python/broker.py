"""A real Redis on a free port, with its data in a directory of the test. Must not know what is kept in it."""

import pathlib
import socket
import subprocess
import time


class Redis:
    """A running Redis that syncs before it answers; `url` is what a server's `backplane` is."""

    def __init__(self, directory, **options):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.options = {"appendonly": "yes", "appendfsync": "always", "save": "", **options}
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        command += [word for name, value in self.options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert time.monotonic() < deadline and self.process.poll() is None, "redis does not answer"
            time.sleep(0.01)

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait(10)
