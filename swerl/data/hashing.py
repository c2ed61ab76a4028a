"""Content identity of a task directory.

``task_hash`` covers every regular file below the directory: its path relative to the directory, whether its owner may execute it, and its
bytes. Symbolic links count by their target text and are not followed. Times, owners, other mode bits and the directory's own name do not
count, so a copy, a checkout and an unpacked archive of one task have one hash. Python's caches (``__pycache__``, ``*.pyc``) are not part
of a task.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PREFIX = "sha256:"


def task_hash(directory: Path | str) -> str:
    """``"sha256:<64 hex digits>"``; NotADirectoryError when there is no such directory, OSError when a file cannot be read."""
    root = Path(directory)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a directory")
    digest = hashlib.sha256()
    for relative, path in sorted(_files(root)):
        if path.is_symlink():
            kind, content = b"l", os.fsencode(path.readlink())
        else:
            kind = b"x" if path.stat().st_mode & 0o100 else b"-"
            content = path.read_bytes()
        name = relative.encode()
        # Lengths go in front of the variable parts, so that no two different trees feed the same bytes.
        digest.update(b"%s %d %d\n" % (kind, len(name), len(content)))
        digest.update(name)
        digest.update(content)
    return PREFIX + digest.hexdigest()


def _files(root: Path) -> list[tuple[str, Path]]:
    found = []
    for folder, subfolders, names in os.walk(root):
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        subfolders[:] = [name for name in subfolders if name != "__pycache__" and name not in links]
        for name in [*names, *links]:
            if not name.endswith(".pyc"):
                path = Path(folder, name)
                found.append((path.relative_to(root).as_posix(), path))
    return found
