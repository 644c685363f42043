"""Where does a request end? Streams of well and badly framed publishes, read by Tidewire and by Node's parser: a
body that Tidewire takes is one that Node sees too, in the same place. A request that two parsers see differently
is how others are smuggled through a proxy. Must not look into either parser."""

import json
import os
import random
import re
import shutil
import socket as sockets
import subprocess

import pytest

from conftest import ROOT

LENGTHS = ["{n}", "+{n}", "-{n}", "0{n}", "{n}.0", "0x{n:x}", "{n} ", "\t{n}", "{n}, {n}", "{n},{less}", "{n};a", "",
           "{less}", "{more}", "18446744073709551616", "{n}\x0b", "{n}\x00", "\u0663"]
CODINGS = ["chunked", "Chunked", "chunked, chunked", "identity", "gzip, chunked", "chunked, gzip", " chunked ",
           "\x0bchunked", "chunked\x00", "\"chunked\"", "chunked;q=1", "chunke", "", ",chunked", "chunked,"]
SIZES = ["{n:x}", "{n:X}", "0{n:x}", "{n:x};a=b", "{n:x};a=\"b\\\"c\"", "{n:x} ", " {n:x}", "+{n:x}", "-{n:x}", "0x{n:x}", "{n:x}g",
         "{n:x};\n", "{n:x}\x0b", "", "ffffffffffffffff{n:x}", "{more:x}", "{less:x}"]
NAMES = ["Content-Length", "content-length", "Content-Length ", " Content-Length", "Content_Length", "Content-Length\x00",
         "Content-\u017fength", "X-Other"]
CODING_NAMES = ["Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", " Transfer-Encoding", "Transfer_Encoding",
                "Transfer-Encoding\x0b"]
LINES = ["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", "\n\r\n", "\r\n ", "\r\n\t"]
VERSIONS = ["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/1"]
EXTRAS = ["Connection: keep-alive", "Connection: close", "Connection: content-length", "Expect: 100-continue", "Expect: other",
          "Upgrade: h2c", "X-A: b", "X-A:", ": a", "X A: b", "Trailer: Content-Length", "Content-Length: 0", "Host: b"]
STREAMS = 2000


@pytest.fixture(scope="module")
def other():
    """The port of Node's opinion."""
    process = subprocess.Popen([shutil.which("node"), ROOT / "tests/node/echo.mjs"], stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline())
    process.kill()
    process.wait()


def chunks(choose, body, odd):
    """The body in chunks, framed well or badly."""
    written, rest, little = "", body, 0.03 if odd else 0
    while rest:
        length = choose.randint(1, len(rest))
        numbers = {"n": length, "more": length + 1, "less": length - 1}
        size = (choose.choice(SIZES) if odd and choose.random() < 0.15 else "{n:x}").format(**numbers)
        written += size + line(choose, little) + rest[:length] + line(choose, little)
        rest = rest[length:]
    trailer = choose.choice(["Content-Length: 3\r\n", "X-T: a\r\n", "bad\r\n"]) if odd and choose.random() < 0.1 else ""
    last = choose.choice(["0", "00", "0;a", "0 "]) if odd else "0"
    return written + last + line(choose, little) + trailer + line(choose, little)


def line(choose, odd):
    return choose.choice(LINES) if choose.random() < odd else "\r\n"


def request(choose, path, body):
    odd = choose.random() < 0.4
    version = choose.choice(VERSIONS) if odd and choose.random() < 0.1 else "HTTP/1.1"
    fields = ["Host: a", "Content-Type: text/plain"]
    numbers = {"n": len(body), "more": len(body) + 1, "less": len(body) - 1}
    is_chunked = choose.random() < 0.5
    has_both = odd and choose.random() < 0.15
    if is_chunked or has_both:
        name = choose.choice(CODING_NAMES) if odd and choose.random() < 0.2 else "Transfer-Encoding"
        coding = choose.choice(CODINGS) if odd and choose.random() < 0.3 else "chunked"
        fields.append(f"{name}: {coding}")
    if not is_chunked or has_both:
        name = choose.choice(NAMES) if odd and choose.random() < 0.2 else "Content-Length"
        length = choose.choice(LENGTHS) if odd and choose.random() < 0.3 else "{n}"
        fields.append(f"{name}: {length.format(**numbers)}")
        if odd and choose.random() < 0.1:
            fields.append(f"Content-Length: {choose.choice(LENGTHS).format(**numbers)}")
    if odd and choose.random() < 0.2:
        fields.insert(choose.randint(0, len(fields)), choose.choice(EXTRAS))
    start = choose.choice(["\r\n", "\n", " ", "\r", "\r\n\r\n"]) if odd and choose.random() < 0.05 else ""
    head = f"{start}POST {path} {version}" + line(choose, 0.02 if odd else 0)
    head += "".join(field + line(choose, 0.03 if odd else 0) for field in fields)
    head += line(choose, 0.03 if odd else 0)
    return head + (chunks(choose, body, odd) if is_chunked else body)


def talk(host, port, stream):
    """Everything that is answered until the end."""
    with sockets.create_connection((host, port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(stream)
            connection.shutdown(sockets.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def ask(host, port, path):
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    return json.loads(talk(host, port, request).split(b"\r\n\r\n", 1)[1])


def test_two_parsers_see_the_same_requests(server, other):
    seed = int(os.environ.get("TIDEWIRE_SEED", random.randrange(1 << 32)))
    print(f"TIDEWIRE_SEED={seed}")
    choose = random.Random(seed)
    taken, alike = 0, 0
    for number in range(STREAMS):
        path, bodies = f"/v1/channels/f{number}/events", []
        for place in range(3):
            inner = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\ninner"
            bodies.append(f"{number}.{place} " + choose.choice(["x", "y" * 40, inner, "0\r\n\r\n" + inner]))
        stream = "".join(request(choose, path, body) for body in bodies).encode("utf-8")
        answers = talk(server.host, server.port, stream)
        talk("127.0.0.1", other, stream)
        got = ask(server.host, server.port, f"{path}?limit=1000")
        ours = [event["data"].encode().hex() for event in got["events"]]
        theirs = ask("127.0.0.1", other, path)
        context = f"TIDEWIRE_SEED={seed}, stream {number}: {stream!r}\nanswered {answers!r}\nother {theirs}"
        assert ours == theirs[: len(ours)], context
        assert len(re.findall(rb"HTTP/1\.1 20[01] ", answers)) == len(ours), context
        taken += len(ours)
        alike += ours == theirs
    print(f"{taken} requests taken, {alike} of {STREAMS} streams read alike to the end")
    assert taken > STREAMS and alike > STREAMS // 4
