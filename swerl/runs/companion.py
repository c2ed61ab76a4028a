"""The dashboard that comes with a run: for whoever watches, never at the run's expense.

The socket is opened here, so that the address is known at once and nothing waits for the page's process. That process is not the run's: it
has no token and no entry in the registry, a low priority for the processor, the first place in line for the kernel's memory killer,
and it ends with its parent, at the latest when the run does. What fails here is told and changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swerl.config import RunConfig
from swerl.errors import SwerlError
from swerl.record.listening import Address, listen
from swerl.record.rundir import RunDir

LOG = "dashboard.console.log"  # beside the runs: it shows all of them
NICE = 10  # a tenth of what a process of the run gets where both want a core; less would starve the page on a busy machine
STOP_S = 1.0  # then it is killed: its index goes on from wherever it was left


@contextmanager
def dashboard(config: RunConfig, run: RunDir, notice: Callable[[str], None], artifacts: Path | None = None) -> Iterator[None]:
    """Serve the runs of ``experiment.runs_dir``, and the archives in ``artifacts`` (the project's unless named), on the loopback address
    while the body runs, unless ``experiment.dashboard`` is off."""
    process = _start(config, run, notice, artifacts) if config.experiment.dashboard else None
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(config: RunConfig, run: RunDir, notice: Callable[[str], None], artifacts: Path | None) -> subprocess.Popen[bytes] | None:
    try:
        run.root.parent.mkdir(parents=True, exist_ok=True)
        with (
            listen(Address(port=config.experiment.dashboard_port, search=True)) as listening,
            (run.root.parent / LOG).open("wb") as log,
        ):
            port = listening.getsockname()[1]
            fd = listening.fileno()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "swerl.cli", "dashboard"),
                    *(() if artifacts is None else ("--artifacts", str(artifacts))),
                    *("--runs-dir", str(run.root.parent), "--fd", str(fd), "--parent-pid", str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd],
                start_new_session=True,
                preexec_fn=_humble,
            )
    except (OSError, SwerlError, subprocess.SubprocessError) as error:
        notice(f"no dashboard: {str(error).splitlines()[0]}")
        return None
    notice(f"dashboard http://127.0.0.1:{port}/#/{run.id}/overview (experiment.dashboard: false leaves it out)")
    return process


def _humble() -> None:
    """In the child: behind everybody else, for processor and memory."""
    os.nice(NICE)
    with suppress(OSError):  # raising it is always allowed, where /proc can be written at all
        Path("/proc/self/oom_score_adj").write_text("1000")
