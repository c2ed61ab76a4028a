"""The doctor verb. The trials run in the trials environment, in a process of its own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, say_json
from swerl.config import RunConfig, dump_resolved
from swerl.errors import fail


@click.command()
@config_options
@click.option("--tasks", type=click.IntRange(min=0), default=64, show_default=True, help="Of each index, evenly spread; 0 for all.")
@click.option("--repetitions", type=click.IntRange(min=1), default=1, show_default=True, help="Finds flaky tasks.")
@click.option("--threshold", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of sound tasks that is enough.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Write indexes of the sound ones into this directory.")
@json_option
def doctor(chosen: Chosen, tasks: int, repetitions: int, threshold: float, keep: Path | None, as_json: bool) -> int:
    """Prove the tasks of both indexes: the gold solution gets reward 1 and doing nothing gets 0, in the configured sandbox.

    A set with fewer sound tasks than the threshold is refused: exit code 1."""
    report = examine(config := chosen.load(), tasks, repetitions, say=lambda line: click.echo(line, err=as_json))
    enough = report["sound_share"] >= threshold
    kept = keep_sound(config, report, tasks, keep) if keep is not None else {}
    if as_json:
        say_json({"ok": enough, **report, **({"kept": kept} if kept else {})})
        return 0 if enough else 1
    total = sum(report["counts"].values())
    click.echo(f"{report['sound_share']:.1%} of {total} tasks are sound" + ("" if enough else f", {threshold:.1%} are asked for"))
    for path, number in kept.items():
        click.echo(f"{number} sound tasks in {path}")
    mend = "" if enough else "mend the tasks named, or drop them from their index"
    say_next(swerl("preflight" if enough else "doctor", chosen=chosen), first=mend)
    return 0 if enough else 1


def keep_sound(config: RunConfig, report: Mapping[str, Any], tasks: int, into: Path) -> dict[str, int]:
    """Write ``train.parquet`` and ``val.parquet`` with the sound ones of the tasks that were examined."""
    from swerl.data import index
    from swerl.data.doctor import choose

    unsound, kept = {task["path"] for task in report["unsound"]}, {}
    for name, path in (("train", config.data.train_index), ("val", config.data.val_index)):
        sound = [entry for entry in choose(index.read(path), tasks) if str(entry.path) not in unsound]
        index.write(into / f"{name}.parquet", sound)
        kept[str(into / f"{name}.parquet")] = len(sound)
    return kept


def examine(config: RunConfig, tasks: int, repetitions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The doctor's report as data; its lines go to ``say`` as they come. Raises SWERL-R020 when it could not examine."""
    python = config.environment.trials_venv_path / "bin" / "python"
    if not python.exists():
        raise fail("SWERL-R018", "there is no Python environment here", "make setup", where=str(config.environment.trials_venv_path))
    with tempfile.TemporaryDirectory(prefix="swerl-doctor-") as folder:
        resolved = Path(folder) / "resolved.json"
        resolved.write_bytes(dump_resolved(config))
        options = ["--config", str(resolved), "--tasks", str(tasks), "--repetitions", str(repetitions)]
        command = [str(python), "-P", "-m", "swerl.trials.doctor", *options]
        last = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if last:
                    say(last)
                last = line.rstrip("\n")
        if process.returncode != 0:
            if last:
                say(last)
            raise fail("SWERL-R020", f"the doctor ended with exit code {process.returncode}", "see its message above")
        return orjson.loads(last)
