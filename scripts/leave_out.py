"""Remove from installed environments the files that pyproject.toml leaves out: `python leave_out.py ENVIRONMENT...`. Standard library only.

`tool.swerl.left-out` names, relative to site-packages, files that several packages bring with different content and that nothing reads:
which of them an installation keeps depends on its order. Without them every installation is the same. Set-up, bundles and images call this
after each `uv sync`, and `swerl env verify` holds them to it. A second call finds nothing.
"""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def left_out(project: Path) -> list[str]:
    """The names; ValueError for one that is no file inside site-packages, because this script deletes what they name."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    names = table.get("tool", {}).get("swerl", {}).get("left-out", [])
    for name in names:
        if not name or Path(name).is_absolute() or str(Path(name)) != name or ".." in Path(name).parts:
            raise ValueError(f"tool.swerl.left-out: {name!r} is no path inside site-packages")
    return names


def leave_out(site: Path, names: list[str]) -> list[str]:
    """Delete the files and their bytecode; the names of those that were there."""
    found = []
    for path in (site / name for name in names):
        for bytecode in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            bytecode.unlink()
        if path.is_file():
            path.unlink()
            found.append(str(path.relative_to(site)))
    return found


def main(folders: list[str]) -> None:
    if not folders:
        sys.exit("leave_out.py: name the environments: python leave_out.py .venv/train .venv/trials")
    names = left_out(PROJECT)
    for folder in map(Path, folders):
        sites = list(folder.glob("lib/python3.*/site-packages"))
        if len(sites) != 1:
            sys.exit(f"leave_out.py: {folder} is no environment: it has {len(sites)} folders lib/python3.*/site-packages")
        for name in leave_out(sites[0], names):
            print(f"{folder}: {name} is left out")


if __name__ == "__main__":
    main(sys.argv[1:])
