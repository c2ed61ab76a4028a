"""What a sandbox needs to be graded elsewhere when its process 1 is not ours (a container, a pod): the agent's work as a difference.

`Foreign` is mixed into an environment of Harbor that can `raw` a command. At the start, before the agent, it notes the state of every file
below the working directory (inode, size, mode, time of change, which no program inside can set); at the end it takes out what is different.
The commands that do it then are the agent's to replace, and so is all that they say: it is read as untrusted data, and decides nothing but
what the agent handed in. Names with line breaks and everything below a `.git` are no part of it.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from harbor.models.task.config import NetworkMode

from swerl.errors import fail
from swerl.trials.sandboxes.filtered import Filtered
from swerl.trials.sandboxes.gradable import SandboxExhausted
from swerl.trials.sandboxes.history import FORGET
from swerl.trials.sandboxes.leftovers import EMPTY_TRUSTED, END_OTHERS, SNAPSHOT
from swerl.trials.sandboxes.received import Bounds, Received, files
from swerl.trials.sandboxes.tree import UnsafeEntry, unpack

LIST = "cd \"$0\" && find . -xdev -name .git -prune -o ! -type d ! -path '*\n*' -exec stat -c '%i %s %f %z|%n' {} +"  # names are relative
REMOVE = 'cd "$0" && while IFS= read -r name; do rm -rf -- "./$name" || exit 1; done < "$1"'
LISTING_BYTES = 64 << 20
HANDOVER_S = 300.0  # for one command of ours in a sandbox that an agent has been in


class Foreign(Filtered, ABC):
    """Mixin for an environment of Harbor whose options name ``network`` and ``changes_only``."""

    session_id: str
    options: Any
    task_env_config: Any
    network_policy: Any

    def __init__(self, *args: Any, **kwargs: Any):
        self._made_from = (args, dict(kwargs))
        self._baseline = b""
        self._processes = ""
        self._workdir = ""  # of the image, once the sandbox is up
        self.host: str | None = None
        self.leftovers: list[str] = []
        self.refused_links: list[str] = []
        self.left_out: list[str] = []
        super().__init__(*args, **kwargs)

    @abstractmethod
    async def raw(self, line: Sequence[str], into: BinaryIO, limit_bytes: int) -> tuple[int, bytes]:
        """Run one command as root with its stdout written to ``into`` (at most ``limit_bytes``, else UnsafeEntry): exit code and stderr.
        Raises for what is not the command's doing."""

    @abstractmethod
    async def put(self, fill: Callable[[tarfile.TarFile, str], None], target: str) -> None:
        """Unpack below ``target`` what ``fill`` adds to an archive, each name behind the prefix it is given."""

    @abstractmethod
    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        """As in Harbor's protocol."""

    @property
    def changes_only(self) -> bool:
        return self.options.changes_only

    @property
    def workdir(self) -> str:
        return self.task_env_config.workdir or self._workdir

    @property
    def network(self) -> str:
        """The narrower of the run's and the task's."""
        return "none" if self.network_policy.network_mode == NetworkMode.NO_NETWORK else self.options.network

    async def note_start(self) -> None:
        """The processes that are the sandbox's own. If the work is graded elsewhere: one commit instead of the repository's past, which may
        hold the fix, and the baseline; SWERL-T056 when it cannot be had."""
        processes = io.BytesIO()
        await self.raw(["sh", "-c", SNAPSHOT], processes, 1 << 20)
        self._processes = " ".join(processes.getvalue().decode(errors="replace").split())
        if not self.changes_only:
            return
        if self.workdir in ("", "/"):
            raise self._cannot("it names no working directory", "set workdir in its task.toml, or WORKDIR in its image")
        listing = io.BytesIO()
        script = f'command -v tar >/dev/null && cd "$0" && ( {FORGET} ) >&2 && {LIST}'
        code, said = await self.raw(["sh", "-c", script, self.workdir], listing, LISTING_BYTES)
        if code != 0:
            why = f"its history cannot be set aside or its files not listed: {said[-300:].decode(errors='replace')}"
            raise self._cannot(why, "give its image find, stat and tar, and its working directory")
        self._baseline = zlib.compress(listing.getvalue(), 1)  # a tenth: there are hundreds of trials alive

    def _cannot(self, why: str, remedy: str) -> Exception:
        return fail("SWERL-T056", f"the agent's work on this task cannot be graded in a fresh sandbox: {why}", remedy, self.session_id)

    async def changes(self, target: Path, limit_bytes: int) -> Received:
        """The agent's work since the start, below ``target``. UnsafeEntry when it cannot be taken out."""
        listing = io.BytesIO()
        code, said = await self._ours(["sh", "-c", LIST, self.workdir], listing, LISTING_BYTES)
        if code != 0:
            raise UnsafeEntry(f"the working directory cannot be listed: {said[-200:].decode(errors='replace')}")
        before, now = _parse(zlib.decompress(self._baseline)), _parse(listing.getvalue())
        changed = sorted(name for name, state in now.items() if before.get(name) != state)
        received = Received((), (), (), ())
        if changed:
            with tempfile.TemporaryFile() as archive:
                await self._archive(changed, archive, limit_bytes)
                bounds = Bounds(limit_bytes, limit_bytes)
                received = await asyncio.to_thread(unpack, archive, target, bounds, known=before.__contains__)
        return replace(received, gone=tuple(sorted(before.keys() - now.keys())))

    async def _ours(self, line: Sequence[str], into: BinaryIO, limit_bytes: int) -> tuple[int, bytes]:
        """`raw` after the agent's turn: the programs may be the agent's by then, and one that never ends is its doing."""
        try:
            return await asyncio.wait_for(self.raw(line, into, limit_bytes), HANDOVER_S)
        except TimeoutError as error:
            raise SandboxExhausted(f"{line[0]} did not end within {HANDOVER_S:.0f} s in the agent's sandbox") from error

    async def lay(self, received: Path, links: Sequence[tuple[str, str]]) -> None:
        """Put what came out of another sandbox, and its links, into the working directory."""

        def fill(tar: tarfile.TarFile, below: str) -> None:
            for name, _ in files(received):
                tar.add(received / name, f"{below}{name}", filter=as_root)
            for name, target in links:
                member = tarfile.TarInfo(f"{below}{name}")
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)

        await self.put(fill, self.workdir)

    async def _archive(self, names: Sequence[str], into: BinaryIO, limit_bytes: int) -> None:
        with tempfile.NamedTemporaryFile() as listed:
            listed.write("".join(f"./{name}\n" for name in names).encode(errors="surrogateescape"))
            listed.flush()
            await self.upload_file(listed.name, "/.swerl-names")
        code, said = await self._ours(["tar", "-c", "-f", "-", "-C", self.workdir, "-T", "/.swerl-names"], into, limit_bytes)
        if code != 0:
            raise UnsafeEntry(f"the work cannot be packed: {said[-200:].decode(errors='replace')}")
        into.seek(0)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove paths below the working directory (a task's file that the agent removed)."""
        if not paths:
            return
        with tempfile.NamedTemporaryFile() as listed:
            listed.write("".join(f"{path}\n" for path in paths).encode(errors="surrogateescape"))
            listed.flush()
            await self.upload_file(listed.name, "/.swerl-names")
        code, said = await self.raw(["sh", "-c", REMOVE, self.workdir, "/.swerl-names"], io.BytesIO(), 1 << 20)
        if code != 0:
            raise RuntimeError(f"files could not be removed: {said[-300:].decode(errors='replace')}")

    async def quiesce(self) -> list[str]:
        """End every process but the sandbox's own; their command lines."""
        ended = io.BytesIO()
        code, said = await self._ours(["sh", "-c", END_OTHERS, self._processes], ended, 1 << 20)
        if code != 0:
            raise SandboxExhausted(f"what the agent left running cannot be ended: {said[-200:].decode(errors='replace')}")
        return [line[:200] for line in ended.getvalue().decode(errors="replace").splitlines() if line.strip()]

    async def prepare_grading(self) -> None:
        """End what the agent left running, and empty the places that a verifier in this sandbox is about to read and write."""
        self.leftovers += await self.quiesce()
        if not self.changes_only:
            await self._ours(["sh", "-c", EMPTY_TRUSTED], io.BytesIO(), 1 << 20)

    def sibling(self, session_id: str) -> Self:
        """A fresh sandbox of the same task, not started: where the work is graded. It has a network only where the run's is public."""
        args, kwargs = self._made_from
        network = "public" if self.network == "public" else "none"
        changes = {"session_id": session_id, "network": network, "gateway": None, "changes_only": False}
        return type(self)(*args, **{**kwargs, **changes})


def too_long(command: str) -> bool:
    """Whether no kernel starts a program with this argument (MAX_ARG_STRLEN): here, on the client's command line, or inside."""
    return len(command.encode(errors="surrogateescape")) >= 128 << 10


def as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _parse(listing: bytes) -> dict[str, str]:
    """Name -> state of regular files and links. Lines that are none, or that name something outside, are left out."""
    found = {}
    for line in listing.decode(errors="surrogateescape").split("\n"):
        state, bar, name = line.partition("|")
        fields = state.split(" ", 3)
        if bar and name.startswith("./") and len(fields) == 4 and len(fields[2]) == 4 and fields[2][0] in "8a":
            found[name[2:]] = state
    return found
