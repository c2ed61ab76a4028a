"""Reading what came out of a sandbox: regular files only, through no link, and no more than asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath


def read_below(root: Path, name: str, limit_bytes: int) -> bytes | None:
    """The content of ``root/name``; None where that is no regular file reached through directories alone, or larger than the limit."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in PurePosixPath(name).parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        file = os.open(PurePosixPath(name).name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    except OSError:  # not there, a link, or a link on the way: there is no such file
        return None
    finally:
        os.close(fd)
    with open(file, "rb") as stream:
        info = os.fstat(stream.fileno())
        return stream.read() if stat.S_ISREG(info.st_mode) and info.st_size <= limit_bytes else None
