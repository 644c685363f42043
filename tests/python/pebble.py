"""A real certificate authority that speaks ACME: Debian's pebble, with a resolver that has every name be this machine.
Must not know the server under test, but the port that it serves TLS on."""

import datetime
import ipaddress
import json
import os
import pathlib
import random
import re
import socket as sockets
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def free_port():
    """One below those that the system gives to others meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with sockets.socket() as tcp, sockets.socket(type=sockets.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def eventually(condition, seconds=60):
    """Waits for a condition, and says what it was that did not come true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)
    return found


def write_authority(directory):
    """An authority of one's own and what it signs for 127.0.0.1: pebble's own server is known by it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("a test's authority", "pebble")]
    pem = serialization.Encoding.PEM
    for name, key, file in zip(names, keys, ["authority", "pebble"]):
        is_authority = file == "authority"
        builder = (
            x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
        )
        if not is_authority:
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([here]), False)
        certificate = builder.sign(keys[0], hashes.SHA256())
        (directory / f"{file}.pem").write_bytes(certificate.public_bytes(pem))
        text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{file}-key.pem").write_bytes(text)


class Pebble:
    """The authority; it looks for whom it gives a certificate at `tls_port`. `refused` are names that it does not take,
    `life_seconds` is how long its certificates live, `nonce_reject` how many of a hundred good nonces it rejects."""

    def __init__(self, directory, tls_port, refused=(), life_seconds=86_400, nonce_reject=0):
        self.directory = pathlib.Path(directory)
        write_authority(self.directory)
        self.port, self.management_port = free_port(), free_port()
        self.resolver_port, self.resolver_management_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}/dir"
        self.authority_file = self.directory / "authority.pem"
        self.trust = ssl.create_default_context(cafile=self.authority_file)
        self.environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
                            "PEBBLE_AUTHZREUSE": "0"}
        self.config = {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self.management_port}",
            "certificate": str(self.directory / "pebble.pem"), "privateKey": str(self.directory / "pebble-key.pem"),
            "httpPort": 1, "tlsPort": tls_port, "domainBlocklist": list(refused),
            "certificateValidityPeriod": life_seconds,
        }
        self.log = self.directory / "pebble.log"
        self.processes = []

    def start(self):
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": self.config}))
        resolver = ["pebble-challtestsrv", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{self.resolver_port}", "-http01", "",
                    "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{self.resolver_management_port}"]
        pebble = ["pebble", "-strict", "-config", str(self.directory / "pebble.json"),
                  "-dnsserver", f"127.0.0.1:{self.resolver_port}"]
        with open(self.log, "a") as log, open(self.directory / "resolver.log", "a") as resolver_log:
            self.processes = [
                subprocess.Popen(resolver, stdout=resolver_log, stderr=resolver_log),
                subprocess.Popen(pebble, stdout=log, stderr=log, env=self.environment),
            ]
        eventually(lambda: all(self.answers(port) for port in [self.port, self.management_port, self.resolver_management_port]))
        return self

    def answers(self, port):
        assert all(process.poll() is None for process in self.processes), self.log.read_text()
        try:
            sockets.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        except OSError:
            return False

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(10)
        self.processes = []

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def resolve_to(self, address):
        """Has all names lead to an address."""
        url = f"http://127.0.0.1:{self.resolver_management_port}/set-default-ipv4"
        with urllib.request.urlopen(url, json.dumps({"ip": address}).encode(), timeout=10):
            pass

    def root(self):
        """What trusts the certificates that it gives."""
        url = f"https://127.0.0.1:{self.management_port}/roots/0"
        with urllib.request.urlopen(url, timeout=10, context=self.trust) as answer:
            return ssl.create_default_context(cadata=answer.read().decode())

    def count(self, pattern):
        return len(re.findall(pattern, self.log.read_text()))

    def orders(self):
        """How many orders it took."""
        return self.count(r"Added order ")
