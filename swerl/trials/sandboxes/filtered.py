"""Harbor's downloads of parts of a directory, by way of the whole: the bounded, linkless transfer, and a choice among the files it left.

Harbor's own pack the part inside and extract that archive here, with its links, in the event loop. `Filtered` is mixed in before Harbor's
class; ``service_download_dir`` is the environment's.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from harbor.utils.path_filter import filter_paths_by_patterns

from swerl.trials.sandboxes.received import files


class Filtered:
    trial_paths: Any
    service_download_dir: Callable[..., Awaitable[None]]

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

        await self._download_chosen(source_dir, Path(target_dir), chosen, None)

    async def download_dir_with_exclusions(self, *, source_dir: str, target_dir: Path | str, exclude: list[str]) -> None:
        """All files but those that a pattern of tar's would leave out."""
        await self.service_download_dir_with_exclusions(source_dir=source_dir, target_dir=target_dir, exclude=exclude)

    async def service_download_dir_with_exclusions(
        self, *, source_dir: str, target_dir: Path | str, exclude: list[str], service: str | None = None
    ) -> None:
        def chosen(names: list[str]) -> list[str]:
            return [name for name in names if not _tar_excludes(name, exclude)]

        await self._download_chosen(source_dir, Path(target_dir), chosen, service)

    async def _download_chosen(self, source: str, target: Path, chosen: Callable[[list[str]], list[str]], service: str | None) -> None:
        staged = Path(tempfile.mkdtemp(dir=self.trial_paths.trial_dir, prefix="part-"))
        try:
            await self.service_download_dir(source, staged, service=service)
            await asyncio.to_thread(_move, staged, target, chosen)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)


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
