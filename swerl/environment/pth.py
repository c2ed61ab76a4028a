"""Code that runs at every start of Python, before any program asks for it: `.pth` lines, sitecustomize and usercustomize.

Such code sees every key and every run. ``refused(site_packages)`` names each place that is not on the allow-list below; an allowed line is
allowed by its exact text, so a changed one is refused again.
"""

from __future__ import annotations

from pathlib import Path

ALLOWED_LINES = {
    # setuptools, in the lock through torch: puts its copy of distutils in place; runs nothing unless distutils is imported.
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim();",
}


def code_lines(path: Path) -> list[str]:
    """The lines of a `.pth` file that Python executes (all others name folders), by the rule of the standard library's ``site``."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.startswith(("import ", "import\t"))]


def refused(site_packages: Path) -> list[tuple[Path, str]]:
    """(file, reason) for everything that would run code at start and is not allowed."""
    found = []
    for path in sorted(site_packages.glob("*.pth")):
        found += [(path, f"runs code at every start of Python: {line[:80]}") for line in code_lines(path) if line not in ALLOWED_LINES]
    for name in ("sitecustomize", "usercustomize"):
        for path in (site_packages / f"{name}.py", site_packages / name / "__init__.py"):
            if path.exists():
                found.append((path, "is imported at every start of Python"))
    return found
