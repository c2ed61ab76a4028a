"""Trials per second and what a trial costs, with Harbor's own cost beside it (trials environment).

Every row runs the same way: so many trials, eight at once, on the bubblewrap sandbox or on none. "work" is processor time of everything
that takes part, sandboxes included, and does not depend on what else the machine does; trials/s does. The peer is Harbor's Trial run by
hand, in the same process and minute. ``--alive=N`` (default 4096) is how many trials are held alive at once at the end.
The numbers go to docs/results, unless ``--no-write``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "trials"))
sys.path.insert(0, str(Path(__file__).parent))

from harbor.agents.base import BaseAgent
from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig, VerifierConfig
from harbor.trial.trial import Trial
from results import machine, write
from trialkit import FIX, IDLE, Running, make_task, script

from swerl.trials import clock
from swerl.trials.sandboxes import launch
from swerl.trials.sandboxes.spec import SandboxSpec

AT_ONCE, TRIALS, ROUNDS = 8, 24, 3
ROWS: list[tuple[str, str, str, str]] = []
NULL = {"import_path": "bench_trials:NullEnvironment", "kwargs": {}}
CPU_FILES = (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup"))


class NullEnvironment(BaseEnvironment):
    """A sandbox that is not there: what is left is Harbor and the runner."""

    @staticmethod
    def type() -> str:
        return "null"

    def _validate_definition(self) -> None: ...

    async def start(self, force_build: bool) -> None: ...

    async def stop(self, delete: bool) -> None: ...

    async def exec(self, *_, **__) -> ExecResult:
        return ExecResult(stdout="", stderr="", return_code=0)

    async def upload_file(self, *_, **__) -> None: ...

    async def upload_dir(self, *_, **__) -> None: ...

    async def download_file(self, *_, **__) -> None: ...

    async def download_dir(self, *_, **__) -> None: ...


class WaitingAgent(BaseAgent):
    """Stays until `leave` is set."""

    leave: asyncio.Event
    here = 0

    def __init__(self, *args, base_url: str, **kwargs):
        super().__init__(*args, **kwargs)

    @staticmethod
    def name() -> str:
        return "waiting"

    def version(self) -> str:
        return "1"

    async def setup(self, environment: BaseEnvironment) -> None: ...

    async def run(self, *_, **__) -> None:
        WaitingAgent.here += 1
        await WaitingAgent.leave.wait()


class Meter:
    """Processor seconds of this process and everything it started. A control group sees all of them; without one, reaped children only."""

    def __init__(self) -> None:
        self._usage: Path | None = None
        group = CPU_FILES[0] / f"swerl-bench-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))
            self._usage = group / "cpuacct.usage"

    def read(self) -> float:
        if self._usage is not None:
            return int(self._usage.read_text()) / 1e9
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    def close(self) -> None:
        if self._usage is not None:
            (CPU_FILES[0] / "cgroup.procs").write_text(str(os.getpid()))
            self._usage.parent.rmdir()


async def measure(meter: Meter, name: str, one: Callable[[int], Awaitable[object]]) -> float:
    """Print a row; the median work of a trial in milliseconds."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def bounded(number: int) -> None:
        async with slots:
            await one(number)

    await bounded(-1)  # imports, compiled programs, caches
    rates, work = [], []
    for number in range(ROUNDS):
        began, before = time.perf_counter(), meter.read()
        await asyncio.gather(*(bounded(number * TRIALS + n) for n in range(TRIALS)))
        rates.append(TRIALS / (time.perf_counter() - began))
        work.append((meter.read() - before) / TRIALS * 1e3)
    spread = f"{min(rates):.1f} to {max(rates):.1f}"
    print(f"{name:<44} {statistics.median(rates):>7.1f}/s {spread:>16} {statistics.median(work):>9.1f} ms", flush=True)
    ROWS.append((name, f"{statistics.median(rates):.1f}", spread, f"{statistics.median(work):.1f} ms"))
    return statistics.median(work)


async def harbor_alone(task: Path, folder: Path, number: int) -> None:
    trial = await Trial.create(
        TrialConfig(
            task=TaskConfig(path=task),
            trial_name=f"alone-{number}",
            trials_dir=folder,
            agent=AgentConfig(name="nop"),
            environment=EnvironmentConfig(**NULL),
            verifier=VerifierConfig(disable=True),
        )
    )
    await trial.run()


async def main(alive: int, wanted: bool) -> None:
    where, notes = machine(), []
    folder, meter = Path(tempfile.mkdtemp(prefix="swerl-bench-")), Meter()
    folder.chmod(0o755)
    task, counter = make_task(folder), iter(range(1 << 40))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {TRIALS} trials, {AT_ONCE} at once, median of {ROUNDS}\n")
    print(f"{'what':<44} {'trials':>9} {'spread':>16} {'work':>12}")

    async def sandbox(number: int) -> None:
        await (await launch.start(SandboxSpec(), f"bench-{os.getpid()}", f"s{number}")).stop()

    async def through_runner(name: str, policy=IDLE, null: bool = False, **changes) -> float:
        running = Running(folder / f"run{next(counter)}", policy, num_workers=AT_ONCE, **changes)
        if null:
            running.runner.settings = replace(running.settings, harbor={**running.settings.harbor, "environment": NULL})
        async with running:
            return await measure(meter, name, lambda number: running.run(task, sample=number + 1))

    await measure(meter, "bubblewrap sandbox: start and stop", sandbox)
    alone = await measure(meter, "Harbor alone: null trial", lambda number: harbor_alone(task, folder, number))
    nop = {"agent": {"name": "nop"}}
    ours = await through_runner("runner: null trial", null=True, disable_verifier=True, **nop)
    await through_runner("runner: no-op in a sandbox, not graded", disable_verifier=True, **nop)
    await through_runner("runner: no-op, graded in a fresh sandbox", **nop)
    await through_runner("runner: oracle, graded in a fresh sandbox", agent={"name": "oracle"})
    await through_runner("runner: mini, three turns, graded", script("cat -n calc.py", FIX))
    for start_s in (0.0, 2.0):
        kind = f"sandbox up after {start_s:.0f} s more" if start_s else "bubblewrap"
        for size in (0, AT_ONCE):
            name = f"queue, {kind}, {f'pool of {size}' if size else 'no pool'}"
            await pooled(meter, name, folder / f"pool{next(counter)}", task, size, start_s)
    notes.append(f"A null trial costs {ours - alone:.1f} ms of ours on top of Harbor's {alone:.1f} ms (promised: 5 ms).")
    if alive:
        notes.append(await many_alive(folder / "alive", task, alive))
    meter.close()
    print("", *notes, sep="\n")
    if wanted:
        write("trials", where, ("what", "trials/s", "spread", "processor time of everything"), ROWS, notes)


async def pooled(meter: Meter, name: str, folder: Path, task: Path, size: int, start_s: float) -> None:
    """Trials that wait for one another: `TRIALS` asked for at once, `AT_ONCE` run, and each turn of the policy takes half a second, as an
    engine's does. ``start_s`` is what a container or a pod would take longer to start than bubblewrap."""
    start, scripted = launch.start, script("true", FIX)

    async def slowly(*arguments):
        await asyncio.sleep(start_s)
        return await start(*arguments)

    async def policy(messages):
        await asyncio.sleep(0.5)
        return scripted(messages)

    launch.start = slowly
    try:
        async with Running(folder, policy, num_workers=AT_ONCE, warm_pool=size, disable_verifier=True) as running:
            await running.run(task, sample=0, step=0)
            rates, work = [], []
            for number in range(1, ROUNDS + 1):
                began, before = time.perf_counter(), meter.read()
                await asyncio.gather(*(running.run(task, sample=n, step=number, version=f"a:{number}") for n in range(TRIALS)))
                rates.append(TRIALS / (time.perf_counter() - began))
                work.append((meter.read() - before) / TRIALS * 1e3)
    finally:
        launch.start = start
    spread = f"{min(rates):.1f} to {max(rates):.1f}"
    print(f"{name:<44} {statistics.median(rates):>7.1f}/s {spread:>16} {statistics.median(work):>9.1f} ms", flush=True)
    ROWS.append((name, f"{statistics.median(rates):.1f}", spread, f"{statistics.median(work):.1f} ms"))


async def many_alive(folder: Path, task: Path, alive: int) -> str:
    WaitingAgent.leave = asyncio.Event()
    clock.PROBE_S = 60.0
    agent = {"import_path": "bench_trials:WaitingAgent", "kwargs": {}}
    running = Running(folder, num_workers=alive, agent=agent, agent_timeout=86400.0, disable_verifier=True)
    running.runner.settings = replace(running.settings, harbor={**running.settings.harbor, "environment": NULL})
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    async with running:
        began = time.perf_counter()
        trials = [asyncio.create_task(running.run(task, sample=number)) for number in range(alive)]
        while WaitingAgent.here < alive:
            await asyncio.sleep(0.05)
            if over := next((trial for trial in trials if trial.done()), None):
                raise RuntimeError(f"a trial ended early: {over.result().error}")
        up_s = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        WaitingAgent.leave.set()
        outcomes = {result.outcome.value for result in await asyncio.gather(*trials)}
    each = (peak_mb - before_mb) * 1024 / alive
    return f"{alive} null trials alive at once after {up_s:.0f} s, {each:.0f} KiB each; all ended {', '.join(sorted(outcomes))}."


if __name__ == "__main__":
    logging.getLogger("harbor").setLevel(logging.CRITICAL)
    # Harbor takes the classes above by import path.
    sys.modules["bench_trials"] = sys.modules["__main__"]
    count = next((int(argument.partition("=")[2]) for argument in sys.argv[1:] if argument.startswith("--alive=")), 4096)
    asyncio.run(main(count, "--no-write" not in sys.argv))
