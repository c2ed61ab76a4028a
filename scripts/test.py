"""Run the tests, each in the environment it needs, and end with one plain line: ``N passed, N failed, N skipped``.

``python scripts/test.py [fast|default|all] [NAME ...]``. NAME is a directory of tests/ or a word of a test's name; in a directory that is
named, `default` runs the long tests too. Tests in tests/trials, tests/redteam and tests/agents, and tests marked ``trials`` elsewhere, run
in .venv/trials; all others in .venv/train. Exit code 0 only if something ran and nothing failed. Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIALS_DIRECTORIES = ("trials", "redteam", "agents")
LEVELS = {"fast": "not slow and not long", "default": "not long", "all": ""}


@dataclass(frozen=True, slots=True)
class Part:
    """One call of pytest. ``marks`` is its ``-m`` expression, empty for none."""

    name: str
    environment: str
    paths: tuple[Path, ...]
    marks: str


def parts(level: str, places: Sequence[Path]) -> list[Part]:
    """What to run where. A place that has nothing for an environment does not appear."""
    tests = ROOT / "tests"
    in_trials = tuple(tests / name for name in TRIALS_DIRECTORIES if (tests / name).is_dir())
    chosen = places or tuple(sorted(path for path in tests.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))))
    marked = tuple(
        file
        for place in chosen
        for file in sorted(place.rglob("test_*.py"))
        if not any(file.is_relative_to(d) for d in in_trials) and "mark.trials" in file.read_text()
    )
    limit = LEVELS[level]
    found = [
        Part("train", "train", tuple(place for place in chosen if place not in in_trials), _both("not trials", limit)),
        Part("trials", "trials", tuple(place for place in chosen if place in in_trials), limit),
        Part("trials-elsewhere", "trials", marked, _both("trials", limit)),
    ]
    return [part for part in found if part.paths]


def run(part: Part, words: Sequence[str], options: Sequence[str]) -> tuple[Counter[str], int]:
    """Counts and pytest's exit code. Collection errors count as failures; 'nothing selected' (5) is no failure of one part."""
    report = ROOT / "build" / f"tests-{part.name}.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    python = ROOT / ".venv" / part.environment / "bin" / "python"
    # A directory of this run alone, removed by rm: pytest's own clean-up recurses, and hostile tests leave trees a thousand deep.
    scratch = tempfile.mkdtemp(prefix="swerl-t-")
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:asyncio",
        f"--junitxml={report}",
        f"--basetemp={scratch}/t",
        *map(str, part.paths),
        *options,
    ]
    if part.marks:
        command += ["-m", part.marks]
    if words:
        command += ["-k", " or ".join(words)]
    print(f"--- tests in .venv/{part.environment}: {' '.join(path.name for path in part.paths)}", flush=True)
    path = f"{os.environ['PATH']}:{ROOT / '.venv' / 'uv' / 'bin'}"  # where make setup puts uv on a machine that has none
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}).returncode
    subprocess.run(["rm", "-rf", scratch], check=False)
    counts: Counter[str] = Counter()
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):
            total, failed = int(suite.get("tests", 0)), int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped = int(suite.get("skipped", 0))
            counts.update(passed=total - failed - skipped, failed=failed, skipped=skipped)
    if code not in (0, 1, 5):
        counts["failed"] += not counts["failed"]
    return counts, 0 if code == 5 else code


def main(arguments: Sequence[str]) -> int:
    names = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    level = names.pop(0) if names and names[0] in LEVELS else "default"
    places = [ROOT / "tests" / name for name in names if (ROOT / "tests" / name).is_dir()]
    words = [name for name in names if not (ROOT / "tests" / name).is_dir()]
    level = "all" if places and level == "default" else level
    began = time.monotonic()
    total: Counter[str] = Counter()
    worst = 0
    for part in parts(level, places):
        counts, code = run(part, words, options)
        total.update(counts)
        worst = max(worst, code)
    print(f"{level} tests took {time.monotonic() - began:.0f} s")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
    return 1 if worst or total["failed"] or not total["passed"] else 0


def _both(*expressions: str) -> str:
    return " and ".join(f"({expression})" for expression in expressions if expression)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
