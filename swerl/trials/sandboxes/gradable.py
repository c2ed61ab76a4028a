"""What the runner asks of a sandbox of ours beside Harbor's protocol: an end to the agent's reach, and its work for a fresh sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from swerl.trials.sandboxes.received import Bounds, Received

LOG_BOUNDS = Bounds(file_bytes=16 << 20)  # of a directory of logs or results; what is over it is left out, and named


class SandboxExhausted(RuntimeError):
    """The agent brought its sandbox down, or used up what it had (memory, processes, disk, inodes), and the trial cannot go on in it."""


class SandboxKilled(RuntimeError):
    """Something outside ended the sandbox: the host, the engine's operator, its lack of memory. Nothing that is inside can have done it."""


class ImagePullFailed(RuntimeError):
    """The host of the sandbox cannot get the image."""


@runtime_checkable
class Gradable(Protocol):
    """``changes_only`` says whether the work is graded in a `sibling`: a sandbox of the same task in which no agent has been, with its
    history kept. ``host`` is where it runs, for backends with more than one host. `prepare_grading` ends what the agent left running
    (``leftovers``)."""

    session_id: str
    host: str | None
    default_user: str | int | None
    leftovers: list[str]
    refused_links: list[str]
    left_out: list[str]

    @property
    def changes_only(self) -> bool: ...
    @property
    def workdir(self) -> str: ...
    async def close_network(self) -> None: ...
    async def prepare_grading(self) -> None: ...
    async def changes(self, target: Path, limit_bytes: int) -> Received: ...
    async def remove(self, paths: Sequence[str]) -> None: ...
    async def lay(self, received: Path, links: Sequence[tuple[str, str]]) -> None: ...
    async def quiesce(self) -> list[str]: ...
    def sibling(self, session_id: str) -> Any: ...
