"""Runs the identity server of tests/identity, and makes certificates for it. Must not know what is tested."""

import base64
import datetime
import json
import pathlib
import socket
import ssl
import subprocess
import urllib.parse
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SERVER = pathlib.Path(__file__).resolve().parents[1] / "identity/server.mjs"


class Authority:
    """An authority of one's own, in `authority.pem`, and what it certified for localhost."""

    def __init__(self, directory):
        self.file = directory / "authority.pem"
        self.server_files = [directory / "server.key", directory / "server.pem"]
        own_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        own = certificate("authority", own_key.public_key(), "authority", own_key, True)
        server = certificate("localhost", server_key.public_key(), "authority", own_key, False)
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))
        self.server_files[0].write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.server_files[1].write_bytes(server.public_bytes(serialization.Encoding.PEM))


def certificate(subject, key, issuer, issuer_key, is_authority):
    now = datetime.datetime.now(datetime.timezone.utc)
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class Identity:
    """A running identity server whose keys are named `prefix`-ALGORITHM. `start` again makes new keys."""

    def __init__(self, prefix, authority=None):
        with socket.create_server(("localhost", 0)) as free:
            self.port = free.getsockname()[1]
        self.authority = authority
        self.process = None
        self.url = f"{'https' if authority else 'http'}://localhost:{self.port}"
        self.start(prefix)

    def start(self, prefix):
        files = self.authority.server_files if self.authority else []
        command = ["node", str(SERVER), str(self.port), prefix, *map(str, files)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            # The library has its own things to say first.
            if line.strip() == self.url:
                return
        raise AssertionError("the identity server does not start")

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process.stdout.close()
            self.process = None

    def token(self, algorithm="RS256"):
        """A token for the client itself, as machines get them."""
        credentials = base64.b64encode(urllib.parse.quote("tester:a secret of the tests", safe=":").encode())
        form = {"grant_type": "client_credentials", "resource": f"urn:tidewire:{algorithm}"}
        request = urllib.request.Request(
            f"{self.url}/token",
            urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {credentials.decode()}"},
        )
        context = ssl.create_default_context(cafile=self.authority.file) if self.authority else None
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return json.load(answer)["access_token"]
