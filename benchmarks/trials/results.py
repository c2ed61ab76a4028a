"""docs/results/trials.json and the page made of it. Each of the two benchmarks replaces its own part; numbers are never written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "docs" / "results"
HEAD = """# Trials: cost, rate, tail

Written by `make bench BENCH=trials` and `make bench BENCH=tail`; [trials.json](trials.json) holds the same numbers.
"""


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code. A load well above 0 before the start means that others were at work."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit + ("+changes" if changed else ""),
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "load_before": round(os.getloadavg()[0], 1),
    }


def write(part: str, where: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str]) -> None:
    path = PLACE / "trials.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[part] = {"machine": where, "columns": list(columns), "rows": [list(row) for row in rows], "notes": list(notes)}
    path.write_text(json.dumps(known, indent=1) + "\n")
    (PLACE / "trials.md").write_text(HEAD + "".join(_section(name, known[name]) for name in sorted(known, reverse=True)))
    print(f"\nwritten to {PLACE / 'trials.md'}")


def _section(name: str, part: dict[str, Any]) -> str:
    m = part["machine"]
    busy = f"load {m['load_before']} before the start" + (": measured beside other work" if m["load_before"] > 1 else "")
    lines = [f"\n## make bench BENCH={name}\n", f"Commit {m['commit']}, {m['date']}, {m['cores']} cores, {m['memory_gib']} GiB, {busy}.\n"]
    lines += ["| " + " | ".join(part["columns"]) + " |", "|" + "---|" * len(part["columns"])]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in part["rows"]]
    return "\n".join([*lines, "", *(f"- {note}" for note in part["notes"])]) + "\n"
