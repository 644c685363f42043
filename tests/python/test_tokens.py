"""Tokens of other libraries (PyJWT, joserfc, jose) and of a real identity server, which comes and goes.
Must not know how tokens are checked.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from conftest import BINARY, Server
from identity import Authority, Identity

SECRET = "a secret that only this test and its server know, 64 bytes long.."
RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
ASYMMETRIC = [*RSA, "ES256", "ES384", "EdDSA"]
SYMMETRIC = ["HS256", "HS384", "HS512"]


def make_keys():
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}
    return {
        **dict.fromkeys(RSA, rsa_key),
        **{name: ec.generate_private_key(curve) for name, curve in curves.items()},
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


KEYS, OTHER_KEYS = make_keys(), make_keys()


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def claims(**more):
    now = int(time.time())
    return {"sub": "ann", "iat": now, "nbf": now, "exp": now + 60, "aud": ["x", "tidewire"], **more}


def by_pyjwt(algorithm, key, claims, kid=None):
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


def joserfc_key(algorithm, key, kid=None):
    kind = {"R": RSAKey, "P": RSAKey, "E": ECKey, "H": OctKey}[algorithm[0]]
    kind = OKPKey if algorithm == "EdDSA" else kind
    return kind.import_key(key if isinstance(key, str) else pem(key), {"kid": kid} if kid else None)


def by_joserfc(algorithm, key, claims, kid=None):
    header = {"alg": algorithm, **({"kid": kid} if kid else {})}
    return joserfc_jwt.encode(header, claims, joserfc_key(algorithm, key), algorithms=[algorithm])


MAKERS = {"PyJWT": by_pyjwt, "joserfc": by_joserfc}


class Checker:
    """`tidewire token check` with one configuration."""

    def __init__(self, directory, issuers):
        self.config = directory / "tidewire.toml"
        self.config.write_text(issuers)

    def run(self, token, **environment):
        return subprocess.run(
            [BINARY, "token", "check", "--config", self.config],
            input=token + "\n",
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "TIDEWIRE_LOG__LEVEL": "warn", **environment},
        )

    def accepts(self, token, **environment):
        done = self.run(token, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refuses(self, token, words, **environment):
        done = self.run(token, **environment)
        assert done.returncode == 1 and done.stdout == "" and words in done.stderr, done
        assert not any(part in done.stderr for part in token.split(".") if len(part) > 8), done.stderr
        return done.stderr


def checker(directory, algorithms, source, more=""):
    return Checker(directory, f"[[auth.issuers]]\nalgorithms = {json.dumps(algorithms)}\n{source}\n{more}\n")


def secret_file(directory):
    path = directory / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return 'secret_file = "secret"'


def public_key_file(directory, key):
    (directory / "key.pem").write_bytes(public_pem(key))
    return 'public_key_file = "key.pem"'


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("algorithm", [*ASYMMETRIC, *SYMMETRIC])
def test_a_token_of_another_library(tmp_path, algorithm, maker):
    is_secret = algorithm in SYMMETRIC
    source = secret_file(tmp_path) if is_secret else public_key_file(tmp_path, KEYS[algorithm])
    check = checker(tmp_path, [algorithm], source, 'audience = ["tidewire"]')
    key, other = (SECRET, SECRET[::-1]) if is_secret else (KEYS[algorithm], OTHER_KEYS[algorithm])
    make = MAKERS[maker]
    rights = {"subscribe": ["chat:*"]}
    shown = check.accepts(make(algorithm, key, claims(tidewire=rights, jti="j1")))
    assert (shown["user"], shown["rights"], shown["token_id"]) == ("ann", rights, "j1")
    check.refuses(make(algorithm, other, claims()), "signature")
    check.refuses(make(algorithm, key, claims(aud="other")), "audience")
    check.refuses(make(algorithm, key, claims(exp=int(time.time()) - 100)), "expired 10")
    check.refuses(make(algorithm, key, claims(nbf=int(time.time()) + 100)), "nbf")


def test_what_pyjwt_signs_with_nothing_or_a_public_key(tmp_path):
    check = checker(tmp_path, ["RS256"], public_key_file(tmp_path, KEYS["RS256"]))
    check.refuses(jwt.encode(claims(), None, "none"), "not signed")
    # PyJWT itself refuses to take a public key for a secret, so that it is wrapped.
    public = public_pem(KEYS["RS256"])
    forged = jwt.PyJWS()
    forged._algorithms["HS256"].prepare_key = lambda key: key
    check.refuses(forged.encode(json.dumps(claims()).encode(), public, "HS256"), "algorithm")


def test_a_key_set_of_another_library(tmp_path):
    keys = [joserfc_key(algorithm, KEYS[algorithm], algorithm) for algorithm in ASYMMETRIC]
    (tmp_path / "keys.json").write_text(json.dumps(KeySet(keys).as_dict(private=False)))
    check = checker(tmp_path, ASYMMETRIC, 'key_set_file = "keys.json"')
    for algorithm in ASYMMETRIC:
        for make in MAKERS.values():
            check.accepts(make(algorithm, KEYS[algorithm], claims(), algorithm))
            check.refuses(make(algorithm, OTHER_KEYS[algorithm], claims(), algorithm), "signature")
    check.refuses(by_pyjwt("RS256", KEYS["RS256"], claims(), "unknown"), "a key that its issuer does not have")


def test_a_private_key_in_the_configuration_ends_the_start(tmp_path):
    (tmp_path / "key.pem").write_bytes(pem(KEYS["RS256"]))
    check = checker(tmp_path, ["RS256"], 'public_key_file = "key.pem"')
    check.refuses(by_pyjwt("RS256", KEYS["RS256"], claims()), "private key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def identity():
    running = Identity("a")
    yield running
    running.stop()


def discovery(url, more=""):
    return (
        f'[[auth.issuers]]\nissuer = "{url}"\ndiscovery = true\naudience = ["tidewire"]\n'
        f"algorithms = {json.dumps(ASYMMETRIC)}\n{more}\n"
    )


def test_tokens_of_a_real_identity_server(tmp_path, identity):
    check = Checker(tmp_path, discovery(identity.url))
    for algorithm in ASYMMETRIC:
        shown = check.accepts(identity.token(algorithm))
        assert shown["user"] == "tester" and shown["rights"]["publish"] == ["chat:*"]
    (tmp_path / "direct").mkdir()
    direct = checker(tmp_path / "direct", ["ES256"], f'key_set_url = "{identity.url}/jwks"')
    direct.accepts(identity.token("ES256"))
    direct.refuses(identity.token("RS256"), "sign with one of ES256")
    other = by_pyjwt("ES256", KEYS["ES256"], claims(iss=identity.url), "a-ES256")
    check.refuses(other, "signature")


def test_over_tls_the_machine_says_whom_to_trust(tmp_path, authority):
    identity = Identity("a", authority)
    try:
        check = Checker(tmp_path, discovery(identity.url))
        token = identity.token("ES384")
        check.accepts(token, SSL_CERT_FILE=str(authority.file))
        # The machine's own certificates, among which this authority is not.
        said = check.refuses(token, "the keys of the token's issuer cannot be had now")
        assert "certificate" in said and identity.url in said, said
    finally:
        identity.stop()


def publish(server, token):
    """The status and the code of a problem."""
    url = f"http://{server.address}/v1/channels/chat:1/events"
    request = urllib.request.Request(url, b"hello", {"Authorization": f"Bearer {token}"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["code"]


def eventually(server, token, expected):
    end = time.monotonic() + 20
    while (found := publish(server, token)) != expected:
        assert time.monotonic() < end, f"{found} does not become {expected}"
        time.sleep(0.1)


def test_a_server_outlives_its_identity_server_and_takes_its_new_keys(tmp_path, identity):
    server = Server(tmp_path, discovery(identity.url, "fetch_pause_seconds = 1"))
    old = identity.token()
    assert publish(server, old) == (201, None)
    identity.stop()
    assert publish(server, old) == (201, None), "what is known stays known"
    unknown = by_pyjwt("RS256", OTHER_KEYS["RS256"], claims(iss=identity.url, aud="tidewire"), "b-RS256")
    time.sleep(1)
    assert publish(server, unknown) == (401, "unauthenticated")
    assert publish(server, old) == (201, None), "a fetch that fails takes nothing away"
    identity.start("b")
    eventually(server, identity.token(), (201, None))
    eventually(server, old, (401, "unauthenticated"))
    assert publish(server, unknown) == (401, "unauthenticated")
    server.stop(said="keys of the issuer cannot be had")


def test_a_server_starts_before_its_identity_server(tmp_path, identity):
    token = identity.token()
    keys_then = identity.process
    identity.stop()
    assert keys_then.poll() is not None
    server = Server(tmp_path, discovery(identity.url, "fetch_pause_seconds = 1"))
    assert publish(server, token) == (503, "unavailable")
    identity.start("a")
    eventually(server, identity.token(), (201, None))
    assert publish(server, token) == (401, "unauthenticated"), "it was signed with a key that is no more"
    server.stop(said="keys of the issuer cannot be had")
