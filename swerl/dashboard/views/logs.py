"""Logs for people: by process, in pages, searched. Lines are shown as they are, without colours; nothing is concluded from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swerl.dashboard.context import Seen
from swerl.record.logs import plain
from swerl.record.redact import known_secrets, redact

PAGE_BYTES = 256 << 10
SEARCH_BYTES = 256 << 20
MATCHES = 200
LINE_CHARS = 4000


def logs(seen: Seen) -> dict[str, Path]:
    """Names of the run's logs, and their files. A client chooses by name."""
    found: dict[str, Path] = {}
    for path in sorted(seen.run.logs.glob("*.log")) if seen.run.logs.is_dir() else []:
        if path.is_symlink() or not path.is_file():
            continue
        stem = path.stem
        name = "engine" if stem.endswith("_vllm") else stem if stem in ("gateway", "runner") else "trainer"
        found[name if name not in found else stem] = path
    return found


def listing(seen: Seen) -> list[dict[str, Any]]:
    return [{"name": name, "file": path.name, "bytes": path.stat().st_size} for name, path in logs(seen).items()]


def page(seen: Seen, path: Path, end: int | None, start: int | None) -> dict[str, Any]:
    """A page of whole lines: the one that ends at byte ``end`` (default: the file's end), or that begins at ``start``."""
    size = path.stat().st_size
    if start is None:
        stop = size if end is None else min(end, size)
        begin = max(0, stop - PAGE_BYTES)
    else:
        begin = min(start, size)
        stop = min(size, begin + PAGE_BYTES)
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(stop - begin)
    if begin > 0 and start is None:  # the first line may be half of one
        cut = data.find(b"\n") + 1
        data, begin = data[cut:], begin + cut
    last = data.rfind(b"\n") + 1
    if last and stop == size:
        data = data[:last]
    secrets = known_secrets(seen.run)
    text = "\n".join(plain(line) for line in data.decode("utf-8", "replace").splitlines())
    lines = [line[:LINE_CHARS] for line in redact(text, secrets).split("\n")] if text else []
    return {"start": begin, "end": begin + len(data), "size": size, "lines": lines}


def search(seen: Seen, path: Path, text: str) -> dict[str, Any]:
    """Lines that hold ``text``, whatever its case, newest first, at most ``MATCHES``; of a very large file its last part is searched.

    A line is found by what is shown of it: who searches for the beginning of a secret learns nothing."""
    size = path.stat().st_size
    needle = text.lower().encode()
    secrets = known_secrets(seen.run)
    found: list[dict[str, Any]] = []
    offset = max(0, size - SEARCH_BYTES)
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if needle in line.lower():
                shown = redact(plain(line.decode("utf-8", "replace")), secrets)
                if text.lower() in shown.lower():
                    found.append({"start": offset, "line": shown[:LINE_CHARS]})
            offset += len(line)
    return {"matches": len(found), "lines": found[-MATCHES:][::-1], "whole": size <= SEARCH_BYTES}
