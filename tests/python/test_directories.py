"""A data directory that cannot be written. Must not need the wire for more than to see that nothing was lost."""

import os
import subprocess

from conftest import BINARY, Server
from test_access import ask, publish

READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_a_read_only_directory_is_refused_and_stays_as_it_was(tmp_path):
    data = tmp_path / "data"
    running = Server(tmp_path, "", data=data)
    assert publish(running, "a", "kept", None)[0] == 201
    running.stop()
    before = contents(data)

    command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", str(data)]
    if os.geteuid() == 0:
        # Root may write whatever the mode says, but not on a file system that is read-only.
        command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(data), *command]
    else:
        data.chmod(0o500)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1, ended
    said = ended.stderr.strip()
    assert str(data) in said and ("ead-only" in said or "ermission" in said), said
    assert "panic" not in said and len(said.splitlines()) == 1, said
    data.chmod(0o700)
    assert contents(data) == before

    running = Server(tmp_path, "", data=data)
    status, _, body = ask(running, "GET", "/v1/channels/a/events")
    assert (status, [event["data"] for event in body["events"]]) == (200, ["kept"])
    running.stop()
