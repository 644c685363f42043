"""Starts real proxies in front of a server. Must not know what is tested.

Each inherits a socket that listens already, so that no port is guessed and nothing must be waited for.
"""

import os
import socket
import subprocess
import threading

NGINX = """
daemon off;
worker_processes 1;
{user}
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    {http}
    server {{
        listen 127.0.0.1:{port} {listen};
        {server}
    }}
}}
"""

HAPROXY = """
global
    maxconn 256
    {tuning}
defaults
    mode http
    timeout connect 5s
    timeout client 90s
    timeout server 90s
    timeout tunnel 1h
    {defaults}
{sections}
frontend front
    bind fd@{descriptor}
    {frontend}
    default_backend back
backend back
    {backend}
    server tidewire {upstream} {server}
"""


class Proxy:
    """A process that serves an inherited socket; `url` is where."""

    def __init__(self, directory, make):
        self.directory = directory
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            port, descriptor = listening.getsockname()[1], listening.fileno()
            self.url = f"http://127.0.0.1:{port}"
            command, environment = make(directory, port, descriptor)
            self.log = open(directory / "stderr", "w+")
            self.process = subprocess.Popen(
                command, pass_fds=[descriptor], env={**os.environ, **environment}, stdout=self.log, stderr=self.log
            )

    def stop(self):
        running = self.process.poll() is None
        self.process.terminate()
        self.process.wait(10)
        assert running, (self.directory / "stderr").read_text()


def nginx(directory, server, http="", listen=""):
    """nginx with this in its `server` block, and `http` next to that."""

    def make(directory, port, descriptor):
        config = directory / "nginx.conf"
        # Else its worker would be somebody who may not look into the directory.
        user = "user root;" if os.geteuid() == 0 else ""
        parts = {"user": user, "server": server, "http": http, "listen": listen}
        config.write_text(NGINX.format(directory=directory, port=port, **parts))
        return ["/usr/sbin/nginx", "-p", str(directory), "-c", str(config)], {"NGINX": f"{descriptor};"}

    return Proxy(directory, make)


def haproxy(directory, upstream, frontend="", backend="", defaults="", sections="", server="", tuning=""):
    """HAProxy with these lines in its sections."""

    def make(directory, port, descriptor):
        config = directory / "haproxy.cfg"
        parts = {"frontend": frontend, "backend": backend, "defaults": defaults, "sections": sections, "tuning": tuning}
        config.write_text(HAPROXY.format(descriptor=descriptor, upstream=upstream, server=server, **parts))
        return ["/usr/sbin/haproxy", "-db", "-f", str(config)], {}

    return Proxy(directory, make)


class Relay:
    """Passes bytes on, answers through `rewrite`, and cuts each connection `seconds` after it came."""

    def __init__(self, host, port, seconds, rewrite=bytes):
        self.target, self.seconds, self.rewrite = (host, port), seconds, rewrite
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            pair = (near, far)
            for arguments in ((near, far), (far, near, self.rewrite)):
                threading.Thread(target=copy, args=arguments, daemon=True).start()
            timer = threading.Timer(self.seconds, cut, pair)
            timer.daemon = True
            timer.start()

    def stop(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


class StaleStreams:
    """A cache that keeps event streams: who asks for one again gets what the first one had, and no more. What counts
    of a request is `key` of it."""

    def __init__(self, host, port, key):
        self.target, self.key, self.kept = (host, port), key, {}
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(near,), daemon=True).start()

    def serve(self, near):
        request = b""
        while b"\r\n\r\n" not in request:
            request += near.recv(65536)
        key = self.key(request) if b"text/event-stream" in request else None
        if key in self.kept:
            near.sendall(b"".join(self.kept[key]))
            near.recv(1)
            return near.close()
        kept = self.kept.setdefault(key, []) if key else []
        far = socket.create_connection(self.target)
        far.sendall(request)
        threading.Thread(target=copy, args=(near, far), daemon=True).start()

        def keep(data):
            kept.append(data)
            return data

        copy(far, near, keep)

    def stop(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


def copy(source, sink, rewrite=bytes):
    """Passes bytes on until either end is gone."""
    try:
        while data := source.recv(65536):
            sink.sendall(rewrite(data))
    except OSError:
        pass
    cut(source, sink)


def cut(*ends):
    for end in ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
