"""Give installed environments the bytes they would have if made again: `python seal.py ENVIRONMENT...`. Standard library only.

What an installer leaves differs from one installation to the next in two ways. Beside a package built from a folder it notes when that was
(``uv_cache.json``), to know later whether to build again. And its compiler has many workers, which files reach in another order each time:
what earlier files left in an interpreter decides whether two equal constants of the next one are one object, and so a few of 40,000
bytecode files differ. Here the notes are removed, and one process compiles all files in the order of their names. Bytecode that already is
that of its source is left alone, so a second call adds nothing to an image's layer. The standard library is compiled where its base image
left that out, as slim ones do; otherwise each process would compile what it imports, and keep nothing, since nobody may write there.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
import sysconfig
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

_TIMES = "uv_cache.json"
_UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def main(folders: list[str]) -> None:
    if not folders:
        sys.exit("seal.py: name the environments: python seal.py .venv/train .venv/trials")
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of a set may reach bytecode
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    for folder in map(Path, folders):
        sites = list(folder.glob("lib/python3.*/site-packages"))
        if len(sites) != 1:
            sys.exit(f"seal.py: {folder} is no environment: it has {len(sites)} folders lib/python3.*/site-packages")
        notes = forget_times(sites[0])
        print(f"{folder}: {compile_all(sites[0]):,} files compiled, {notes} notes of time removed")
    print(f"standard library: {compile_library(Path(sysconfig.get_path('stdlib'))):,} files compiled")


def forget_times(site: Path) -> int:
    """Remove each note, and its line in RECORD; how many there were."""
    notes = sorted(site.glob(f"*.dist-info/{_TIMES}"))
    for note in notes:
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith(f"{note.parent.name}/{_TIMES},")), encoding="utf-8")
        note.unlink()
    return len(notes)


def compile_all(site: Path) -> int:
    """Compile what has no bytecode of its own (PEP 552, unchecked hash); how many files that were. PyCompileError names a file."""
    stale = [source for source in _sources(site, {"__pycache__"}) if not _is_of(_bytecode(source), source)]
    return _compile(stale)


def compile_library(stdlib: Path) -> int:
    """Compile what the base has no bytecode for, but for tests, some of which are wrong on purpose."""
    sources = _sources(stdlib, {"__pycache__", "site-packages", "test", "tests"})
    return _compile([source for source in sources if not _bytecode(source).exists()])


def _compile(sources: Sequence[Path]) -> int:
    for source in sources:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), str(_bytecode(source)), doraise=True, invalidation_mode=mode)
    return len(sources)


def _sources(root: Path, passed_over: Set[str]) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in passed_over)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _bytecode(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def _is_of(bytecode: Path, source: Path) -> bool:
    try:
        with bytecode.open("rb") as file:
            header = file.read(16)
    except FileNotFoundError:
        return False
    return header == importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source.read_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
