"""How long the commands take that people wait for, against a bare interpreter in the same minute.

Medians of several runs, each a process of its own; "work" is the processor time, which does not depend on what else the machine does.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWERL = Path(sys.executable).with_name("swerl")
DEMO = ("--config", str(ROOT / "config.yaml"), "--profile", "demo-cpu")
RUNS = 7


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians in seconds, and the spread of the wall time."""

    wall_s: float
    low_s: float
    high_s: float
    work_s: float


def measure(command: list[str]) -> Timing:
    wall, work = [], []
    for _ in range(RUNS):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Timing(statistics.median(wall), min(wall), max(wall), statistics.median(work))


def main() -> None:
    rows = [
        ("python -c pass", [sys.executable, "-c", "pass"], None),
        ("import click", [sys.executable, "-c", "import click"], None),
        ("swerl --help", [str(SWERL), "--help"], 0.3),
        ("swerl validate", [str(SWERL), "validate", *DEMO], 0.5),
        ("swerl preflight --static", [str(SWERL), "preflight", "--static", *DEMO], 1.0),
        ("make setup, nothing to do", ["make", "setup"], None),
    ]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {RUNS} runs each\n")
    print(f"{'command':<28} {'median':>8} {'spread':>16} {'work':>8} {'promised':>9}")
    for name, command, promised in rows:
        found = measure(command)
        spread = f"{found.low_s:.3f} to {found.high_s:.3f}"
        print(f"{name:<28} {found.wall_s:>6.3f} s {spread:>16} {found.work_s:>6.3f} s {f'{promised:.1f} s' if promised else '':>9}")


if __name__ == "__main__":
    main()
