"""Harbor's downloads of parts of a directory, by way of the whole: the bounded, linkless transfer, and a choice among the files it left.

Harbor's own pack the part inside and extract that archive here, with its links, in the event loop. `Filtered` is mixed in before Harbor's
class; ``download_dir`` is the environment's.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from harbor.utils.path_filter import filter_paths_by_patterns

from swerl.trials.sandboxes.received import files


class Filtered:
    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        raise NotImplementedError

    async def download_dir_filtered(
        self,
        *,
        source_dir: str,
        target_dir: Path | str,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        protect: Sequence[str] | None = None,
    ) -> None:
        """Files that match ``include`` and not ``exclude``, and those that ``protect`` names."""

        def chosen(names: list[str]) -> list[str]:
            return [*filter_paths_by_patterns(names, include=include, exclude=exclude), *(n for n in names if n in (protect or ()))]

        await self._download_chosen(source_dir, Path(target_dir), chosen)

    async def download_dir_with_exclusions(self, *, source_dir: str, target_dir: Path | str, exclude: list[str]) -> None:
        """All files but those that a pattern of tar's would leave out."""
        await self._download_chosen(source_dir, Path(target_dir), lambda names: [n for n in names if not _tar_excludes(n, exclude)])

    async def _download_chosen(self, source_dir: str, target: Path, chosen: Callable[[list[str]], list[str]]) -> None:
        with tempfile.TemporaryDirectory(dir=self._staging(), prefix="part-") as staged:
            await self.download_dir(source_dir, staged)
            await asyncio.to_thread(_move, Path(staged), target, chosen)

    def _staging(self) -> Any:
        return self.trial_paths.trial_dir  # type: ignore[attr-defined]


def _move(staged: Path, target: Path, chosen: Callable[[list[str]], list[str]]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(chosen([name for name, _ in files(staged)])):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staged / name, target / name)


def _tar_excludes(name: str, patterns: Sequence[str]) -> bool:
    """Whether GNU tar leaves a file out: its path, or a directory above it, from the start of any component, matches."""
    parts = PurePosixPath(name).parts
    ways = ("/".join(parts[start:end]) for end in range(1, len(parts) + 1) for start in range(end))
    return any(fnmatchcase(way, pattern) for way in ways for pattern in patterns)
