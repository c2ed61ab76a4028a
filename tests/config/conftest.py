"""A small project on disk: a configuration file and a profile, as a user has them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path: Path):
    """``write("model: ...")`` puts a configuration file into an empty directory and returns its path; placeholders are filled in."""

    def put(text: str, name: str = "config.yaml", filled: bool = True) -> Path:
        head = "model: {model_path: /models/m}\ndata: {data_dir: /data}\n" if filled else ""
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + text)
        return path

    return put


@pytest.fixture
def root() -> Path:
    return ROOT
