"""Every path of a run, by name. ``runs/<exp_name>/`` is the run; its name never contains the time, so the same command finds it again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.errors import fail

REGISTRY_NAME = "registry.sqlite"
SCRATCH_PARENT = Path("/tmp")  # not TMPDIR: every process of a run must compute the same path, and a long TMPDIR breaks Ray's sockets


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths only; nothing is created until ``create``. ``root`` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> RunDir:
        return cls(Path(path).expanduser().absolute())

    @classmethod
    def of(cls, runs_dir: str | os.PathLike[str], run_id: str) -> RunDir:
        """The directory of run ``run_id``; a name that would leave ``runs_dir`` or hide in it is refused."""
        if not run_id or run_id in {".", ".."} or "/" in run_id or "\0" in run_id or run_id.startswith("."):
            raise fail("SWERL-R001", f"{run_id!r} cannot name a run", "set experiment.exp_name to a plain directory name")
        return cls(Path(runs_dir).expanduser().absolute() / run_id)

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def registry(self) -> Path:
        return self.root.parent / REGISTRY_NAME

    # What was asked for
    @property
    def config_snapshot(self) -> Path:
        return self.root / "config.snapshot.yaml"

    @property
    def resolved(self) -> Path:
        return self.root / "resolved.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def render(self) -> Path:
        return self.root / "render"

    @property
    def lineage(self) -> Path:
        """Starts of the trainer and what each restored: names the versions of the weights."""
        return self.root / "lineage.json"

    # Who runs it
    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def token(self) -> Path:
        """The run's token (0600): the value of ``SWERL_RUN_ID`` in every process of this run, and of no other run."""
        return self.root / "run.token"

    @property
    def services(self) -> Path:
        return self.root / "services.json"

    @property
    def stop_request(self) -> Path:
        return self.root / "stop.request"

    @property
    def leftovers(self) -> Path:
        """Shared-memory segments seen in use by this run's processes, so that they can be removed when no process is left to ask."""
        return self.root / "shared-memory.json"

    # What happened
    @property
    def events(self) -> Path:
        return self.root / "events"

    def events_of(self, source: str) -> Path:
        return self.events / f"{source}.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def metrics_superseded(self) -> Path:
        return self.root / "metrics.superseded.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def trainer_log(self) -> Path:
        return self.logs / f"{self.id}.log"

    @property
    def vllm_log(self) -> Path:
        return self.logs / f"{self.id}_vllm.log"

    @property
    def console(self) -> Path:
        """What a detached supervisor prints; beside the run, because a fresh start moves the run aside while it prints."""
        return self.root.with_name(f"{self.id}.console.log")

    def log_of(self, process: str) -> Path:
        return self.trainer_log if process == "trainer" else self.logs / f"{process}.log"

    # What came out
    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def trials_journal(self) -> Path:
        return self.trials / "journal.jsonl"

    @property
    def sandboxes(self) -> Path:
        return self.root / "sandboxes"

    # Outside the run directory: Unix sockets below it must stay under 107 bytes, whatever the depth of the project.
    @property
    def scratch(self) -> Path:
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.root))).hexdigest()[:10]
        return SCRATCH_PARENT / f"swerl-{digest}"

    @property
    def ray(self) -> Path:
        """Ray's ``_temp_dir``."""
        return self.scratch / "ray"

    @property
    def tmp(self) -> Path:
        """``TMPDIR`` of this run's processes."""
        return self.scratch / "tmp"

    def create(self) -> None:
        """Make the directories below ``root`` that every process expects. Repeatable."""
        for path in (self.root, self.events, self.logs, self.checkpoints, self.gateway, self.trials, self.render):
            path.mkdir(parents=True, exist_ok=True)

    def create_scratch(self) -> None:
        """Make the private directory under the system's temporary one; one that somebody else made there is refused, never used."""
        self.scratch.mkdir(mode=0o700, exist_ok=True)
        found = self.scratch.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise fail(
                "SWERL-R002",
                f"{self.scratch} is not a private directory of this user",
                "remove it, or let its owner do so, and start again",
                where=str(self.scratch),
            )
        for path in (self.ray, self.tmp):
            path.mkdir(mode=0o700, exist_ok=True)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: readers see the old or the new whole, and after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n", mode)


def read_json(path: Path) -> Any:
    """The value in ``path``, or None when there is no such file. A file that is no JSON is an error: every writer here is atomic."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise fail("SWERL-R003", f"not JSON: {error}", "restore the file, or begin anew with --fresh", where=str(path)) from error


def fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
