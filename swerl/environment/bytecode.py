"""Is compiled bytecode that of the source beside it?

Environments are compiled once with unchecked-hash bytecode (PEP 552): identical on every host and never compared with the source at run
time. So a stale file would run silently; here its embedded source hash is compared. Bytecode with a timestamp or a checked hash is
compared by Python itself and is left to it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_UNCHECKED_HASH = 0b01
_HEADER_BYTES = 16


def stale(pyc: Path) -> bool:
    """True for unchecked-hash bytecode whose source is gone or differs, and for bytecode of this Python's magic that is cut short."""
    with pyc.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return True
    if header[:4] != importlib.util.MAGIC_NUMBER or int.from_bytes(header[4:8], "little") != _UNCHECKED_HASH:
        return False
    try:
        source = Path(importlib.util.source_from_cache(str(pyc))).read_bytes()
    except (FileNotFoundError, ValueError):
        return True
    return header[8:16] != importlib.util.source_hash(source)
