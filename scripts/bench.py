"""Run the benchmarks: ``python scripts/bench.py [NAME ...]``. Each is a module or package of ``benchmarks/`` that prints a table.

A benchmark whose docstring says ``(trials environment)`` in its first line runs in .venv/trials, the others in .venv/train. Exit code 0
when all asked for could be measured.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def found() -> dict[str, Path]:
    """Name -> file with the benchmark's code."""
    places = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks").glob("*/__main__.py")]
    return {(path.parent.name if path.name == "__main__.py" else path.stem): path for path in sorted(places)}


def main(arguments: Sequence[str]) -> int:
    known = found()
    names = [argument for argument in arguments if not argument.startswith("-")] or list(known)
    options = [argument for argument in arguments if argument.startswith("-")]
    if unknown := [name for name in names if name not in known]:
        print(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        first = (ast.get_docstring(ast.parse(known[name].read_text())) or "").partition("\n")[0]
        environment = "trials" if "(trials environment)" in first else "train"
        print(f"--- {name}: {first}", flush=True)
        python = ROOT / ".venv" / environment / "bin" / "python"
        target = known[name].parent if known[name].name == "__main__.py" else known[name]
        if subprocess.run([str(python), str(target), *options], cwd=ROOT).returncode != 0:
            failed.append(name)
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
