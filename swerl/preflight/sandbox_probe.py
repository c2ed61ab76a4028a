"""Runs in the trials environment, as a program: starts one sandbox as the runner would, tries it, and removes it again.

Input (stdin, JSON): rootfs, network, memory_mb, processes, file_mb. Output (last line of stdout, JSON): error (empty when it started), code
and out of a command in it, start_s, gateway (whether the gateway's port answers inside), network (what else could be reached, empty if
nothing), missing (limits this machine cannot enforce). Nothing of Harbor is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from swerl.errors import SwerlError
from swerl.trials.sandboxes import launch, limits
from swerl.trials.sandboxes.relay import Relay
from swerl.trials.sandboxes.spec import DEFAULT_PATH, Limits, SandboxSpec

GATEWAY_PORT = 8002
GREETING = b"swerl preflight\n"
# Inside: say hello, ask the gateway's port, then try a port of the host, an address of the host and one of the internet.
INSIDE = """
import json, socket, sys
port, forbidden = int(sys.argv[1]), json.loads(sys.argv[2])
def reach(host, port):
    try:
        with socket.create_connection((host, port), 1.0) as s:
            s.settimeout(2.0)
            return s.recv(64).decode() or "open"
    except OSError:
        return ""
print("swerl")
gateway = bool(port) and "swerl" in reach("127.0.0.1", port)
print(json.dumps({"gateway": gateway, "network": next((f"{h}:{p}" for h, p in forbidden if reach(h, p)), "")}))
"""


async def probe(asked: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"error": "", "code": -1, "out": "", "start_s": 0.0, "gateway": False, "network": ""}
    said["missing"] = limits.missing()
    greeter = await asyncio.start_server(_greet, "127.0.0.1", 0)
    host_port = greeter.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="swerl-preflight-") as scratch:
        spec = SandboxSpec(
            network=asked["network"],
            rootfs=Path(asked["rootfs"]) if asked["rootfs"] else None,
            work_dir=Path(scratch),
            limits=Limits(processes=asked["processes"], file_mb=asked["file_mb"], memory_mb=asked["memory_mb"] or 0),
            gateway_port=GATEWAY_PORT if asked["network"] == "gateway" else 0,
        )
        started = time.monotonic()
        try:
            sandbox = await launch.start(spec, f"preflight-{os.getpid()}", "probe")
        except (launch.SandboxStartFailed, SwerlError, OSError) as error:
            return {**said, "error": str(error)}
        said["start_s"] = time.monotonic() - started
        relay = None
        try:
            if sandbox.listener is not None:
                relay = Relay(sandbox.listener, "127.0.0.1", host_port)
                await relay.start()
            forbidden = [["127.0.0.1", host_port], *([[own, 22]] if (own := _own_address()) else []), ["1.1.1.1", 53]]
            quoted = json.dumps(forbidden).replace("'", "")
            command = f"python3 -I -S - {GATEWAY_PORT if sandbox.listener else 0} '{quoted}' <<'END'\n{INSIDE}\nEND"
            done = await sandbox.channel.run(command, "/", {"PATH": DEFAULT_PATH}, 6.0, 4096)
            lines = done.stdout.decode(errors="replace").splitlines()
            said |= {"code": done.code, "out": lines[0] if lines else done.stderr.decode(errors="replace")[-200:]}
            if done.code == 0 and len(lines) > 1:
                said |= json.loads(lines[1])
        finally:
            if relay is not None:
                await relay.close()
            await sandbox.stop()
            greeter.close()
    return said


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GREETING)
    await writer.drain()
    writer.close()


def _own_address() -> str:
    """The address this host would use to the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        try:
            probe_socket.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return probe_socket.getsockname()[0]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(probe(json.load(sys.stdin)))))
