"""``swerl data``: index, prove, convert and sift task sets. The doctor needs sandboxes: its trials run in the trials environment."""

from __future__ import annotations

import json
from pathlib import Path

import click

from swerl.cli.doctor import doctor
from swerl.data import convert, difficulty, index

PATH = click.Path(path_type=Path)
FOUND = click.Path(path_type=Path, exists=True)


@click.group(help="Make, check and sift task sets.")
def data() -> None:
    pass


data.add_command(doctor)


@data.group("index", help="Build, check, merge and split index files.")
def index_group() -> None:
    pass


@index_group.command("build", help="Index the task directories below TASKS.")
@click.argument("tasks", type=FOUND)
@click.argument("out", type=PATH)
@click.option("--split", default="train", show_default=True)
@click.option("--data-source", default="harbor", show_default=True)
def build_command(tasks: Path, out: Path, split: str, data_source: str) -> None:
    entries = index.build(tasks, split, data_source)
    index.write(out, entries)
    click.echo(f"{len(entries)} tasks in {out}")


@index_group.command("check", help="Do all rows of INDEX point at whole, unchanged tasks?")
@click.argument("path", metavar="INDEX", type=FOUND)
def check_command(path: Path) -> None:
    problems = index.verify(path)
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{len(index.read(path))} rows, {len(problems)} problems in {path}")
    raise SystemExit(1 if problems else 0)


@index_group.command("merge", help="One index of all PARTS; each task content once.")
@click.argument("parts", type=FOUND, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True)
def merge_command(parts: tuple[Path, ...], out: Path) -> None:
    entries = index.merge(index.read(part) for part in parts)
    index.write(out, entries)
    click.echo(f"{len(entries)} tasks in {out}")


@index_group.command("split", help="Split INDEX into train.parquet and val.parquet beside it, by task hash.")
@click.argument("path", metavar="INDEX", type=FOUND)
@click.option("--val-share", type=float, default=0.05, show_default=True)
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--out-dir", type=PATH, help="Elsewhere than beside INDEX.")
def split_command(path: Path, val_share: float, seed: int, out_dir: Path | None) -> None:
    train, val = index.split(index.read(path), val_share, seed)
    target = out_dir or path.parent
    for name, entries in (("train", train), ("val", val)):
        index.write(target / f"{name}.parquet", entries)
    click.echo(f"{len(train)} train and {len(val)} val tasks in {target}")


@data.command("convert", help="Make task directories from SWE-bench-like RECORDS (jsonl, json or parquet).")
@click.argument("records", type=FOUND)
@click.argument("out", type=PATH)
@click.option("--image-pattern", default="", help="Image of records that name none; may use {instance_id}, {repo} and their forms.")
@click.option("--workdir", default=convert.WORKDIR, show_default=True, help="Where the images have the repository; may use {name}.")
@click.option("--limit", type=int)
def convert_command(records: Path, out: Path, image_pattern: str, workdir: str, limit: int | None) -> None:
    written = convert.convert(convert.read_records(records)[:limit], out, convert.Options(image_pattern, workdir))
    click.echo(f"{len(written)} tasks in {out}")
    click.echo("they need their images: the docker or the Kubernetes sandbox, or harbor_runtime.sandbox.rootfs with one image unpacked")


@data.command("filter", help="Keep the tasks of INDEX that RESULTS (json: task hash -> rewards, null = not graded) places in the band.")
@click.argument("path", metavar="INDEX", type=FOUND)
@click.argument("results", type=FOUND)
@click.argument("out", type=PATH)
@click.option("--above", type=float, default=0.0, show_default=True)
@click.option("--below", type=float, default=1.0, show_default=True)
@click.option("--min-attempts", type=int, default=2, show_default=True)
def filter_command(path: Path, results: Path, out: Path, above: float, below: float, min_attempts: int) -> None:
    sifted = difficulty.sift(index.read(path), json.loads(results.read_text()), difficulty.Band(above, below, min_attempts))
    index.write(out, sifted.kept)
    others = f"too hard {len(sifted.too_hard)}, too easy {len(sifted.too_easy)}, unknown {len(sifted.unknown)}"
    click.echo(f"{len(sifted.kept)} tasks kept in {out}; {others}")
