"""How much memory a run's processes use: what is theirs alone, and once what they share. Reads one small file a process."""

from __future__ import annotations

from collections.abc import Iterable

from swerl.record.process import PROC


def used_mb(pids: Iterable[int]) -> int:
    """Anonymous memory of all, plus the largest shared mapping of any (Ray's object store is mapped by each of its clients). Pages of
    files, libraries among them, are the page cache's and do not count."""
    anonymous = shared = 0
    for pid in pids:
        fields = _fields(pid)
        anonymous += fields.get("RssAnon", 0)
        shared = max(shared, fields.get("RssShmem", 0))
    return (anonymous + shared) >> 10


def _fields(pid: int) -> dict[str, int]:
    """The kB lines of /proc/<pid>/status; empty for a process that is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if value.endswith(" kB")}
