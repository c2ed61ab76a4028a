"""Reading task indexes the way preflight needs them: every problem of the file or a row as text, never an exception half-way.

A row points at its task by a path relative to the index file, with the hash of what the task holds (``swerl.data``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("prompt", "data_source", "reward_model", "extra_info")


class IndexUnreadable(Exception):
    """The file is missing, no parquet, or lacks columns; the text says which."""


@dataclass(frozen=True, slots=True)
class Row:
    """``task_dir`` is absolute. ``task_hash`` is empty where the row has none."""

    number: int
    task_dir: Path
    task_hash: str
    task_id: str
    prompt: str


def read_index(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise IndexUnreadable("does not exist" if not path.exists() else "is not a file")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if missing := [c for c in COLUMNS if c not in file.schema_arrow.names]:
            raise IndexUnreadable(f"lacks the column {missing[0]!r}; found {', '.join(file.schema_arrow.names)}")
        table = file.read(columns=["prompt", "extra_info"])
    except (pyarrow.ArrowException, OSError) as error:
        raise IndexUnreadable(f"is no readable parquet file: {error}") from error
    rows = table.to_pylist()
    if not rows:
        raise IndexUnreadable("has no rows")
    home = os.path.realpath(path.parent)
    return [_row(number, raw, home) for number, raw in enumerate(rows)]


def row_count(path: Path) -> int:
    """Rows of the index from its footer; IndexUnreadable if there is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise IndexUnreadable(str(error)) from error


def _row(number: int, raw: dict[str, Any], home: str) -> Row:
    extra = raw.get("extra_info") or {}
    path = extra.get("task_path")
    if not path:
        raise IndexUnreadable(f"row {number}: extra_info has no task_path")
    prompt = raw.get("prompt") or []
    text = prompt[0].get("content", "") if isinstance(prompt, list) and prompt else ""
    return Row(
        number,
        Path(os.path.normpath(f"{home}/{path}") if path[0] != "/" else path),
        extra.get("task_hash") or "",
        extra.get("task_id") or Path(path).name,
        text or "",
    )
