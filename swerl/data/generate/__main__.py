"""``python -m swerl.data.generate --out DIR``: the demo's task directories and indexes.

Leaves ``DIR/train/``, ``DIR/val/`` (one directory per task), ``DIR/train.parquet``, ``DIR/val.parquet`` and ``DIR/made_from.json``. Does
nothing when ``made_from.json`` says that the same generator made the same set there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import click

from swerl.data import index
from swerl.data.generate import harbor, make_tasks, repair
from swerl.data.generate.repair import Split

STAMP = "made_from.json"
DATA_SOURCE = "swerl-demo"


def write_sets(out: Path, numbers: dict[Split, int], seeds: dict[Split, int], size: str = "small") -> bool:
    """Write the sets; False if they stand already. An interrupted run leaves no stamp and is begun anew."""
    stamp = json.dumps({"numbers": numbers, "seeds": seeds, "size": size, "generator": _generator_hash()}, indent=2) + "\n"
    if (out / STAMP).is_file() and (out / STAMP).read_text() == stamp:
        return False
    (out / STAMP).unlink(missing_ok=True)
    for split, number in numbers.items():
        shutil.rmtree(out / split, ignore_errors=True)
        entries = []
        for i, task in enumerate(make_tasks(seeds[split], number, split, size)):
            name = harbor.task_id(split, i, task)
            harbor.write_task(task, out / split / name, name, split)
            entries.append(index.entry(out / split / name, split, DATA_SOURCE))
        index.write(out / f"{split}.parquet", entries)
    (out / STAMP).write_text(stamp)
    return True


def _generator_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted([*Path(__file__).parent.glob("*.py"), *(Path(index.__file__).with_name(n) for n in ("index.py", "hashing.py"))]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option(
    "--train", "num_train", type=click.IntRange(min=1), default=repair.NUM_TRAIN, show_default=True, help="Number of train tasks."
)
@click.option("--val", "num_val", type=click.IntRange(min=1), default=repair.NUM_VAL, show_default=True, help="Number of val tasks.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other train tasks; val stays the same.")
@click.option("--size", type=click.Choice(list(repair.SIZES)), default="small", show_default=True, help="Of the repositories.")
def main(out: Path, num_train: int, num_val: int, seed: int, size: str) -> None:
    started = time.monotonic()
    made = write_sets(out, {"train": num_train, "val": num_val}, {"train": repair.TRAIN_SEED + seed, "val": repair.VAL_SEED}, size)
    click.echo(
        f"{num_train} train and {num_val} val tasks in {out} " + (f"({time.monotonic() - started:.1f} s)" if made else "were there already")
    )


if __name__ == "__main__":
    main()
