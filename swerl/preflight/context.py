"""What the checks look at: the configuration, and the machine through paths and an environment that tests can point elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swerl.config.check import is_placeholder
from swerl.errors import Problem
from swerl.facts.indexes import IndexUnreadable, Row, read_index, row_count
from swerl.facts.plan import known_steps
from swerl.facts.probe import ProbeHung, asked
from swerl.facts.sandbox import backend
from swerl.facts.shape import ModelShape, ShapeError, read_shape
from swerl.preflight.check import NotApplicable
from swerl.preflight.taskfiles import Scan, scan
from swerl.record.process import TOKEN_VARIABLE, environment_of
from swerl.record.rundir import RunDir

if TYPE_CHECKING:
    from swerl.config import RunConfig

T = TypeVar("T")
BUSY = 1.5  # runnable processes for each processor
MOST_PATIENCE = 8.0
KILLED_S = 0.5  # in which a killed program is gone


def _home() -> Path:
    """``~`` itself for a user without one."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("~")


@dataclass(frozen=True, slots=True)
class Host:
    """Where the machine's state is read. The defaults are the real places."""

    proc: Path = Path("/proc")
    shm: Path = Path("/dev/shm")
    tmp: Path = Path("/tmp")
    home: Path = field(default_factory=_home)
    cgroup: Path = Path("/sys/fs/cgroup")
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program printed. ``code`` is None if there is no such program."""

    code: int | None
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def complaint(self) -> str:
        """The last line of what it said to stderr."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def load_per_processor(proc: Path) -> float:
    """Mean number of runnable processes of the last minute, for each processor this process may use; 0 where the kernel does not say."""
    try:
        return float((proc / "loadavg").read_text().split()[0]) / len(os.sched_getaffinity(0))
    except OSError:
        return 0.0


class Context:
    """Shared by all checks of one preflight, which run in threads: everything read twice goes through ``once``.

    ``patience`` multiplies every time limit. Where it is not given, it is the machine's load for each processor, and a probe that gives no
    answer on a machine with more to do than processors (``is_busy``) warns instead of refusing the run: it may only have waited.
    """

    def __init__(
        self,
        cfg: RunConfig,
        *,
        problems: Iterable[Problem] = (),
        env: Mapping[str, str] | None = None,
        host: Host | None = None,
        patience: float | None = None,
    ):
        self.cfg = cfg
        self.host = host or Host()
        load = load_per_processor(self.host.proc)
        self.is_busy = patience is None and load > BUSY
        self.patience = min(max(1.0, load), MOST_PATIENCE) if patience is None else patience
        self.config_problems = tuple(problems)
        self.env = dict(os.environ if env is None else env)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._values: dict[str, tuple[Any, BaseException | None]] = {}

    def once(self, key: str, make: Callable[[], T]) -> T:
        """The result of ``make`` for this key, computed by the first who asks; its exception is raised to all who ask."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._values:
                try:
                    self._values[key] = (make(), None)
                except Exception as error:
                    self._values[key] = (None, error)
        value, error = self._values[key]
        if error is not None:
            raise error
        return value

    def source(self, key: str) -> str:
        """Where a key's value comes from, as a place a person can open; for a default the key itself."""
        place = self.cfg.source.get(key, "default")
        return key if place in {"default", "auto"} else place

    @property
    def run_dir(self) -> RunDir:
        return RunDir.at(self.cfg.run_dir)

    @property
    def gpus(self) -> int:
        return self.cfg.infrastructure.nnodes * self.cfg.infrastructure.ngpus_per_node

    @property
    def on_cpu(self) -> bool:
        return self.cfg.infrastructure.device == "cpu"

    @property
    def backend(self) -> str:
        """Kind of sandbox: bubblewrap, docker, kubernetes or other."""
        return backend(self.cfg.harbor_agent)

    @property
    def sandbox_is_local(self) -> bool:
        host = self.cfg.harbor_agent.docker_host or self.env.get("DOCKER_HOST", "")
        return self.backend == "bubblewrap" or (self.backend == "docker" and not host.startswith(("tcp:", "ssh:")))

    def is_leftover(self, pid: int | None) -> bool:
        """Whether the process was started by this run and left behind: the next start ends it, so it stands in nobody's way."""
        token = self.run_dir.token
        environment = None if pid is None or not token.is_file() else environment_of(pid)
        return environment is not None and environment.get(TOKEN_VARIABLE) == token.read_text().strip()

    def filled(self, key: str, value: object) -> None:
        """Not applicable where the value is still a placeholder, which SWERL-P001 reports already."""
        if is_placeholder(str(value)):
            raise NotApplicable(f"{key} is not filled in (SWERL-C007)")

    def shape(self) -> ModelShape:
        """The policy's shape; not applicable where SWERL-P101 reports why it cannot be read."""
        self.filled("model.model_path", self.cfg.model.model_path)
        path = self.cfg.model.model_path / "config.json"
        try:
            return self.once("shape", lambda: read_shape(path))
        except (OSError, ShapeError) as error:
            raise NotApplicable("the policy's config.json cannot be read (SWERL-P101)") from error

    def index_path(self, split: str) -> Path:
        return self.cfg.data.train_index if split == "train" else self.cfg.data.val_index

    def read_rows(self, split: str) -> list[Row]:
        """Rows of a split; raises IndexUnreadable."""
        return self.once(f"rows {split}", lambda: read_index(self.index_path(split)))

    def rows(self, split: str) -> list[Row]:
        """Rows of a split; not applicable where SWERL-P401 reports why they cannot be read."""
        self.filled(f"data.{split}_index", self.index_path(split))
        try:
            return self.read_rows(split)
        except IndexUnreadable as error:
            raise NotApplicable(f"the {split} index cannot be read (SWERL-P401)") from error

    def task_files(self) -> Scan:
        """The files of both splits' tasks, as many as there is time to read."""
        return self.once("task files", lambda: scan([*self.rows("val"), *self.rows("train")]))

    def steps(self) -> int | None:
        """Training steps of the whole run, or None where they depend on an index that cannot be read."""
        return known_steps(self.cfg, lambda index: self.once("train row count", lambda: row_count(index)))

    def val_tasks(self) -> int | None:
        """Rows of the validation's index, or None where it cannot be read."""
        try:
            return self.once("val row count", lambda: row_count(self.cfg.data.val_index))
        except IndexUnreadable:
            return None

    def asked(self, program: Path, question: Any, *, timeout_s: float) -> Any:
        """What a program says in the trainer's environment, from the store where it was asked before. Not applicable without that
        environment; raises TimeoutError without an answer, ProbeFailed where the program dies."""
        python = self.cfg.environment.venv_path / "bin" / "python"
        if not python.exists():
            raise NotApplicable("the trainer's environment is missing (SWERL-P801)")
        try:
            return asked(python, program, question, timeout_s=timeout_s * self.patience, env=self.env)
        except ProbeHung as error:
            raise TimeoutError(str(error)) from error

    def program(self, name: str) -> str | None:
        """The full path of a program on this environment's PATH."""
        return shutil.which(name, path=self.env.get("PATH", os.defpath))

    def ask(self, command: Sequence[str], *, timeout_s: float, stdin: str | None = None, env: Mapping[str, str] | None = None) -> Answer:
        """Run a program that only reads. It gets no terminal, and is killed with all it started when its time is up (TimeoutError). One
        that cannot be killed (it waits in a driver), or whose output somebody else holds open, is left behind."""
        timeout_s *= self.patience
        executable = self.program(command[0])
        if executable is None:
            return Answer(None, "", f"{command[0]}: not found on PATH")
        process = subprocess.Popen(
            [executable, *command[1:]],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(self.env if env is None else env),
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=KILLED_S)
            raise TimeoutError(f"{command[0]} gave no answer within {timeout_s:g} s") from None
        return Answer(process.returncode, out, err)
