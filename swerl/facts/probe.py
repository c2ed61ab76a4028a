"""Questions to the packages of the trainer's environment: a program its interpreter runs, bounded in time, its answer kept.

A program reads one JSON value from standard input and prints one as its last line. Equal questions to equal packages have equal answers, so
an answer is kept under ``build/probes`` by the hash of question, program and versions; where that cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from swerl.config.schema import PROJECT_ROOT

KEPT = PROJECT_ROOT / "build" / "probes"
MOST_KEPT = 512
_PACKAGES = ("verl", "vllm", "transformers", "torch")
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",  # a question is no reason to touch a card
}


class ProbeFailed(Exception):
    """No answer: there is no such interpreter, or the program ended with an error; the text says which. Says nothing about the question."""


class ProbeHung(ProbeFailed):
    """No answer within the time."""


def asked(python: Path, program: Path, question: Any, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Any:
    """What ``program`` says to ``question``, from the store if it was asked before. Raises ProbeFailed."""
    if not python.exists():
        raise ProbeFailed(f"there is no Python environment at {python.parent.parent}")
    text = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    kept = KEPT / f"{program.stem}-{_digest(text, program.read_bytes(), *_versions(python))}.json"
    try:
        return orjson.loads(kept.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        answer = _run(python, program, text, timeout_s, os.environ if env is None else env)
    _keep(kept, answer)
    return orjson.loads(answer)


def _run(python: Path, program: Path, text: bytes, timeout_s: float, env: Mapping[str, str]) -> bytes:
    process = subprocess.Popen(
        [str(python), "-P", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**env, **_QUIET},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(text, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise ProbeHung(f"{program.stem} gave no answer within {timeout_s:g} s") from None
    lines = out.strip().splitlines()
    if process.returncode != 0 or not lines:
        words = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
        raise ProbeFailed(words[-1][:300] if words else f"{program.stem} ended with {process.returncode}")
    return lines[-1]


def _keep(path: Path, answer: bytes) -> None:
    with suppress(OSError):  # a read-only installation asks again each time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(answer)
        Path(file.name).replace(path)
        for old in sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _versions(python: Path) -> list[bytes]:
    """From the names of the metadata directories; a package that a bundle takes from the host is left to the question."""
    site = python.parent.parent.glob("lib/python3*/site-packages")
    return sorted(info.name.encode() for place in site for name in _PACKAGES for info in place.glob(f"{name}-*.dist-info"))
