"""The socket of a page that shows runs. Whoever starts the page's process opens it, so that the address is known at once."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from swerl.errors import fail

PORTS_TRIED = 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. ``port`` 0 takes any; ``search`` takes the next free one of ``PORTS_TRIED`` where the port is taken.
    ``fd``: a socket that listens already."""

    host: str = "127.0.0.1"
    port: int = 8090
    search: bool = False
    fd: int | None = None


def listen(address: Address) -> socket.socket:
    """A socket that nobody shares (no SO_REUSEPORT): two servers on one port are two answers to one question. Raises SWERL-R301."""
    host, port = address.host, address.port
    tries = PORTS_TRIED if address.search and port else 1
    for number in range(port, port + tries):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            last = error
    raise fail(
        "SWERL-R301",
        f"the dashboard cannot listen on {host}:{port}: {last.strerror or last}",
        "end the process that holds the port, or choose another with --port",
        f"{host}:{port}",
    ) from last
