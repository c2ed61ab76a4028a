"""``services.json``: where the services of a run listen, each entry written by its own service.

``{"gateway": {"public_url", "admin_url", "admin_token", "pid"}, "runner": {"url", "token", "pid"}}``, mode 0600 because of the tokens.
"""

from __future__ import annotations

import fcntl
import http.client
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swerl.record.rundir import read_json, write_json


def announce(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Put ``entry`` (its ``pid`` is added) in place of what ``name`` said before. Safe against other services doing the same."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_json(path, {**(read_json(path) or {}), name: {**entry, "pid": os.getpid()}}, mode=0o600)
    finally:
        os.close(handle)


def entry_of(path: Path, name: str, pid: int) -> Mapping[str, Any] | None:
    """What ``name`` announced, if it was the process ``pid`` that did."""
    entry = (read_json(path) or {}).get(name)
    return entry if entry and entry.get("pid") == pid else None


def answers(url: str, path: str, timeout_s: float = 2.0) -> bool:
    """True when a GET gets any answer that is not the server's own failure; a refusal without a token is an answer. No proxy is asked."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("GET", address.path.rstrip("/") + path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
