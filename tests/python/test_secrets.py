"""Nothing that is printed holds a secret: every feature runs with marked ones, and all output is looked through."""

import json
import os
import pathlib
import re
import subprocess


import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import BINARY, Server
from test_access import ask, publish, receive, say, stream
from test_callback import Application

MARK = "MARKED"
SECRET = f"{MARK}-hmac-secret-of-the-issuer-0123456789"
ADMIN_KEY = f"{MARK}-admin-key-0123456789"
CALLBACK_KEY = f"{MARK}-callback-key-0123456789"
CONFIG = """
origins = ["https://app.example.com"]
auth.admin_key_file = "admin"
auth.cookie = "session"
rights.subscribe = "authenticated"
rights.publish = "authenticated"
limits.event_bytes = 65536
limits.user_messages_per_second = 500
log.level = "LEVEL"
log.format = "FORMAT"
[[auth.issuers]]
secret_file = "secret"
[callback]
url = "http://127.0.0.1:PORT/ask?key=MARKED-in-the-url"
on = ["connect", "subscribe", "publish"]
secret_file = "callback"
forward_headers = ["cookie", "x-session"]
[[channels]]
pattern = "checked:*"
schema = "schema.json"
"""


def token(**claims):
    # The signature and the claims are secrets as a whole; the mark is in a claim, so it is looked for in base64, too.
    return jwt.encode({"sub": "ann", "exp": 4_000_000_000, "mark": MARK, **claims}, SECRET, "HS256")


def secrets_of(tokens):
    """What must not be printed: the mark, and any longer piece of a token."""
    pieces = {piece for one in tokens for piece in one.split(".")}
    return [MARK, *(piece[:24] for piece in pieces if len(piece) > 24 and not piece.startswith("eyJhbGci"))]


class Logged(Server):
    """A server whose log is kept, not refused."""

    def __init__(self, directory, config):
        path = pathlib.Path(directory) / "tidewire.toml"
        path.write_text(config)
        self.path = path
        self.log = open(pathlib.Path(directory) / "stderr", "w+")
        environment = {"PATH": os.environ["PATH"]}
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", str(path.parent / "data"), "--config", str(path)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self.address = self.process.stdout.readline().split("//")[1].strip()
        self.host, port = self.address.split(":")
        self.port = int(port)

    def end(self):
        self.process.terminate()
        assert self.process.wait(10) == 0
        self.log.seek(0)
        return self.log.read() + self.process.stdout.read()


def use_everything(server, tokens):
    """Every feature, rightly and wrongly used; gives the bodies of all errors."""
    good, bad = tokens
    own = {"Origin": f"http://{server.address}"}
    answers = []

    def did(answer):
        answers.append(answer[2])
        return answer

    for key in [good, ADMIN_KEY]:
        assert did(publish(server, "a", f"{MARK}-body", key, Idempotency_Key=f"{MARK}-key", Tidewire_Key=f"{MARK}-k",
                           Tidewire_Event=f"{MARK}-name"))[0] in (200, 201, 422)
    did(publish(server, "a", f"{MARK}-body", bad))
    did(publish(server, "a", f"{MARK}-body", None, Cookie=f"session={good}", **own))
    did(publish(server, "a", f"{MARK}-body", None, Cookie=f"session={bad}", **own))
    did(publish(server, "a", f"{MARK}-body", None, Cookie=f"session={good}", Origin="https://evil.net"))
    did(publish(server, "a", f"{MARK}-body", None, Authorization=f"Basic {MARK}"))
    did(publish(server, "checked:1", json.dumps({"name": f"{MARK}-value", "n": f"{MARK}"}), good))
    did(publish(server, "checked:1", f'{{"n": {MARK}', good, Content_Type="application/json"))
    did(publish(server, "a", f"{MARK}" * 20_000, good))
    for query in [f"token={good}", f"since={MARK}", f"{MARK}=1", f"limit={MARK}", f"ticket={MARK}", f"access_token={bad}"]:
        did(ask(server, "GET", f"/v1/channels/a/events?{query}", X_Session=MARK))
    did(ask(server, "GET", f"/v1/channels/{MARK}%00/events", good))
    ticket = did(ask(server, "POST", "/v1/tickets", good))[2].pop("ticket")
    for _ in range(2):
        did(ask(server, "GET", f"/v1/channels/a/events?ticket={ticket}"))
    for path in ["/v1/channels/a", "/v1/channels/a/events?wait=0.01", "/v1/events?channel=a"]:
        assert ask(server, "GET", path, good)[0] == 200
    for accept in [good, bad]:
        connection, answer = stream(server, "/v1/channels/a/events?since=earliest", accept)
        if answer.status == 200:
            answer.read1(1000)
        connection.close()
    address = f"ws://{server.address}/v1/ws"
    with connect(address, subprotocols=["tidewire.v1", f"bearer.{good}"]) as member:
        assert say(member, type="subscribe", channel="a", since="earliest")["type"] == "subscribed"
        member.send(json.dumps({"type": "publish", "channel": "a", "data": f"{MARK}-data"}))
        member.send(b"\x02\x01a\x00\x00\x00\x00\x00\x00\x00" + MARK.encode())
        member.send(json.dumps({"type": "refresh", "token": good}))
        member.send(json.dumps({"type": "refresh", "token": bad}))
        member.send(f"not JSON {MARK}")
        member.send(json.dumps({"type": MARK}))
        for _ in range(9):
            receive(member)
    for options in [{"subprotocols": ["tidewire.v1", f"bearer.{bad}"]},
                    {"additional_headers": {"Authorization": f"Bearer {bad}"}}]:
        with pytest.raises(InvalidStatus) as refused, connect(address, **options):
            pass
        answers.append(refused.value.response.body.decode())
    with connect(f"ws://{server.address}/v1/channels/a/ws", additional_headers={"Authorization": f"Bearer {good}"}) as raw:
        raw.send(f"{MARK}-raw")
        raw.recv(timeout=5)
        raw.send("x" * 70_000)
        with pytest.raises(ConnectionClosed):
            raw.recv(timeout=5)
    did(ask(server, "POST", "/v1/admin/users/ann/disconnect", ADMIN_KEY))
    did(ask(server, "POST", "/v1/admin/users/ann/disconnect", ADMIN_KEY + MARK))
    answers.append(ask(server, "GET", "/metrics")[2].decode())
    return json.dumps([answer for answer in answers if "events" not in str(answer)])


@pytest.fixture
def directory(tmp_path):
    schema = {"properties": {"name": {"pattern": "^[a-z]+$"}, "n": {"type": "number"}}}
    for name, text in [("secret", SECRET), ("admin", ADMIN_KEY), ("callback", CALLBACK_KEY),
                       ("schema.json", json.dumps(schema))]:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("level,form", [("debug", "human"), ("info", "json")])
def test_no_secret_is_printed(directory, level, form):
    application = Application()
    application.answer = lambda question: (200, {"allow": True, "reason": MARK})
    config = CONFIG.replace("LEVEL", level).replace("FORMAT", form)
    server = Logged(directory, config.replace("PORT", str(application.server.server_port)))
    tokens = [token(), token(exp=1)]
    errors = use_everything(server, tokens)
    printed = server.end()
    application.server.shutdown()
    assert "authenticated" in printed and "refused" in printed and "closed" in printed
    for secret in secrets_of(tokens):
        assert secret not in printed, printed[max(0, printed.index(secret) - 300):][:600]
        assert secret not in errors, errors[max(0, errors.index(secret) - 300):][:600]
    if form == "json":
        for line in printed.splitlines():
            assert {"timestamp", "level", "message"} <= json.loads(line).keys(), line


def test_each_step_of_a_life_has_its_line(directory):
    application = Application()
    config = CONFIG.replace("LEVEL", "info").replace("FORMAT", "json")
    server = Logged(directory, config.replace("PORT", str(application.server.server_port)))
    with connect(f"ws://{server.address}/v1/ws", additional_headers={"Authorization": f"Bearer {token()}"}) as member:
        say(member, type="subscribe", channel="life")
        assert say(member, type="publish", channel="life", data=1)["type"] in ("published", "event")
        receive(member)
    lines = [json.loads(line) for line in server.end().splitlines()]
    name = next(line["connection"] for line in lines if line["message"] == "subscribed" and line["channel"] == "life")
    steps = [line for line in lines if line.get("connection") == name]
    assert [line["message"] for line in steps] == ["accepted", "authenticated", "subscribed", "closed"]
    assert steps[0]["address"].startswith("127.0.0.1:")
    assert (steps[1]["user"], steps[1]["transport"]) == ("ann", "websocket")
    closed = steps[3]
    assert (closed["code"], closed["delivered"], closed["published"]) == (1000, 1, 1) and closed["duration_ms"] >= 0
    application.server.shutdown()


def test_nobody_writes_lines_of_their_own(directory):
    """A user's name is text of the issuer's: it must not break a line, nor a terminal."""
    for form in ["human", "json"]:
        application = Application()
        config = CONFIG.replace("LEVEL", "info").replace("FORMAT", form)
        server = Logged(directory, config.replace("PORT", str(application.server.server_port)))
        application.answer = lambda question: (200, {"allow": True, "user": "eve\n2026 INFO closed \u001b[31m \u2028x"})
        with connect(f"ws://{server.address}/v1/ws", origin=f"http://{server.address}") as member:
            say(member, type="ping")
        printed = server.end()
        assert "\u001b" not in printed
        forms = r"^(\d{4}-|\{)" if form == "json" else r"^\d{4}-\d\d-\d\dT"
        assert all(re.match(forms, line) for line in printed.split("\n") if line), printed
        application.server.shutdown()


def test_commands_print_no_secret(directory):
    config = CONFIG.replace("LEVEL", "info").replace("FORMAT", "human").replace("PORT", "1")
    (directory / "tidewire.toml").write_text(config)
    (directory / "token").write_text(token())
    (directory / "wrong.toml").write_text(config + f'\nunknown = "{MARK}"\n[auth]\nadmin_key = "{MARK}"\n')
    path = str(directory / "tidewire.toml")
    for arguments, given in [
        (["config", "show", "--config", path], ""),
        (["config", "check", "--config", path], ""),
        (["config", "check", "--config", str(directory / "wrong.toml")], ""),
        (["token", "check", "--config", path], token(exp=1)),
        (["token", "check", "--config", path], f"{MARK}.{MARK}.{MARK}"),
        (["pub", "a", "x", "--retry-for", "0", "--url", "http://127.0.0.1:1", "--token-file", str(directory / "token")], ""),
    ]:
        done = subprocess.run([BINARY, *arguments], input=given, capture_output=True, text=True, timeout=20,
                              env={"PATH": os.environ["PATH"]})
        printed = done.stdout + done.stderr
        for secret in secrets_of([token(), token(exp=1)]):
            assert secret not in printed, (arguments, printed)
