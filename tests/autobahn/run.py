"""Runs the Autobahn cases against Tidewire's raw WebSocket route and checks the outcome.

The raw route sends a lone subscriber its own messages, which is the echo that the suite wants. The suite
connects to `/` only, so a small relay gives each connection a channel of its own by rewriting the
path in the request line; every other byte passes untouched.

Usage: run.py KOSOKU SERVER_HOST:PORT OUTPUT_DIRECTORY [CASE...]
"""

import asyncio
import itertools
import json
import pathlib
import sys

GOOD = {"OK", "INFORMATIONAL"}
SUITE_CASES = 517
numbers = itertools.count(1)


async def pass_on(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def relay(server, reader, writer):
    line = await reader.readline()
    method, _, version = line.split(b" ", 2)
    up_reader, up_writer = await asyncio.open_connection(*server)
    up_writer.write(b"%s /v1/channels/autobahn-%d/ws %s" % (method, next(numbers), version))
    await asyncio.gather(pass_on(reader, up_writer), pass_on(up_reader, writer), return_exceptions=True)


async def main(kosoku, server, output, cases):
    host, port = server.rsplit(":", 1)
    front = await asyncio.start_server(lambda r, w: relay((host, int(port)), r, w), "127.0.0.1", 0)
    address = "127.0.0.1:%d" % front.sockets[0].getsockname()[1]
    includes = [argument for case in cases for argument in ("-i", case)]
    suite = await asyncio.create_subprocess_exec(
        kosoku, "-m", "fuzzingclient", *includes, "-p", "2", "-o", output, address, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.wait_for(suite.wait(), 1500)
    finally:
        if suite.returncode is None:
            suite.kill()
    return check(json.loads((pathlib.Path(output) / "index.json").read_text()), 1 if cases else SUITE_CASES)


def check(index, at_least):
    passed = failed = 0
    for agent in index.values():
        for case, result in agent.items():
            outcome = {result["behavior"], result["behaviorClose"]}
            if outcome <= GOOD:
                passed += 1
            else:
                failed += 1
                print(f"case {case}: {result['behavior']}, close {result['behaviorClose']}")
    print(f"{passed} passed, {failed} failed")
    if passed + failed < at_least:
        print(f"only {passed + failed} cases ran, of at least {at_least}")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])))
