"""Reading logs for the two things a log may be asked: what went wrong first, and the engines' rate lines.

Facts that other parts of swerl need come from events and metrics; logs are for people. The first error is shown to a person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RAY_PREFIX = re.compile(r"^\((?:[\w:./<>-]+ )?pid=\d+(?:, ip=[\d.]+)?\)\s?")
_SWERL = re.compile(r"^(SWERL-[A-Z]\d{3}) (.+)$")
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt|Exit|Killed|Failure)\w*(?:\([\w.]+\))?(?::|$)")
_SEVERE = re.compile(r"\b(?:ERROR|FATAL|CRITICAL)\b|^(?i:fatal|error):")
_RATES = re.compile(r"Avg (?:prompt|generation) throughput|GPU KV cache usage|Prefix cache hit rate")
_TRACEBACK = "Traceback (most recent call last)"
MAX_SCAN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log as a person reads it: without colours and Ray's prefixes. ``number`` counts from 1."""

    path: Path
    number: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.path}:{self.number}"


def plain(line: str) -> str:
    return _RAY_PREFIX.sub("", _ANSI.sub("", line)).rstrip()


def first_error(path: Path, offset: int = 0) -> LogLine | None:
    """The line that says what went wrong first after byte ``offset``, or None when nothing was written: a problem of swerl's if there is
    one, else the exception that ends the first traceback (the cause, in a chain), else the first line that calls itself an error, else
    the last line."""
    try:
        with path.open("rb") as file:
            before = file.read(offset).count(b"\n")
            text = file.read(MAX_SCAN_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    lines = [LogLine(path, before + number, plain(line)) for number, line in enumerate(text.splitlines(), 1)]
    lines = [line for line in lines if line.text.strip()]
    for line in lines:
        if _SWERL.match(line.text.strip()):
            return line
    inside = False
    for line in lines:
        if _TRACEBACK in line.text:
            inside = True
        elif inside and _RAISED.match(line.text.strip()):
            return _with_message(line, lines)
    severe = next((line for line in lines if _SEVERE.search(line.text)), None)
    return severe or (lines[-1] if lines else None)


def _with_message(raised: LogLine, lines: list[LogLine]) -> LogLine:
    """An exception whose message begins on the next line, together with that line."""
    if not raised.text.rstrip().endswith(":"):
        return raised
    after = next((line.text.strip() for line in lines if line.number > raised.number), "")
    return LogLine(raised.path, raised.number, f"{raised.text.rstrip()} {after}")


class RateLines:
    """Copies the engines' rate lines of one growing log into their own file."""

    def __init__(self, source: Path, target: Path):
        self.source, self.target = source, target
        self._offset = source.stat().st_size if source.exists() else 0

    def copy(self) -> list[str]:
        """Take what whole lines came since the last call, and return the rate lines among them."""
        lines, self._offset = read_new_lines(self.source, self._offset)
        rates = [plain(line) for line in lines if _RATES.search(line)]
        if rates:
            with self.target.open("a") as file:
                file.write("".join(f"{line}\n" for line in rates))
        return rates


def read_new_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines after ``offset`` and where the next call continues. A file that became shorter is read from its start."""
    try:
        size = path.stat().st_size
        if size == offset:
            return [], offset
        with path.open("rb") as file:
            file.seek(offset if size > offset else 0)
            start = file.tell()
            data = file.read()
    except FileNotFoundError:
        return [], 0
    end = data.rfind(b"\n") + 1
    return data[:end].decode("utf-8", "replace").splitlines(), start + end


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, made plain."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 400 * lines - 4096))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [plain(line) for line in text.splitlines()[-lines:]]
