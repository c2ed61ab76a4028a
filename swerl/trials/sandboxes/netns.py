"""A listening socket inside a container's own network namespace: the one thing that a container without a network can reach."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from swerl.errors import fail


def listen_inside(pid: int, container: str, port: int) -> socket.socket:
    """127.0.0.1:``port`` as the container of process ``pid`` sees it. Blocking. SWERL-T054 where this process may not or cannot: the engine
    is elsewhere, or this is not root. A thread of its own enters the namespace, since the whole process must stay where it is."""
    try:
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            raise OSError(f"process {pid} is another's here: the engine runs beside another /proc")
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    except OSError as error:
        raise refused(str(error)) from error
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            os.setns(namespace, os.CLONE_NEWNET)
            made.append(socket.create_server(("127.0.0.1", port), backlog=128))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    os.close(namespace)
    if isinstance(made[0], OSError):
        raise refused(str(made[0])) from made[0]
    return made[0]


def refused(why: str) -> Exception:
    return fail(
        "SWERL-T054",
        f"containers cannot be kept to the gateway alone: {why}",
        "run as root beside the engine; or set harbor_runtime.sandbox.network to none (agents outside the sandbox) or to public",
        "harbor_runtime.sandbox.network",
    )
