"""eval and infer: score a policy, or sample from it, on the executor that training uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, say_json
from swerl.config import RunConfig

# Of preflight: what an evaluation shares with training, and of that what only training minds (tasks in both indexes, too few for a batch).
FAMILIES = ("data", "sandbox", "environment")
TRAINING_ONLY = ("SWERL-P404", "SWERL-P405")


def policy_options[F: Callable[..., Any]](function: F) -> F:
    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--fresh", is_flag=True, help="Begin anew; the earlier evaluation is kept beside it."),
        click.option("--name", help="Name of this evaluation below experiment.runs_dir; default: <run>.eval or <run>.infer."),
        click.option(
            "--tasks", type=click.IntRange(min=0), help="So many tasks, evenly spread, 0 for all; default: all (data.infer_tasks to infer)."
        ),
        click.option(
            "--attempts",
            "--samples",
            "samples",
            type=click.IntRange(min=1),
            help="Attempts a task; default: training.val_n (data.infer_attempts to infer).",
        ),
        click.option("--index", "index_file", type=path, help="Task index; default: data.val_index, or data.train_index to infer."),
        click.option("--model-name", help="With a URL: the model to ask for there; default: model.served_model_name."),
        click.option("--policy", help="Run, global_step_N, Hugging Face directory or URL; default: the run's newest checkpoint."),
    ):
        function = option(function)
    return config_options(json_option(function))


@click.command("eval")
@policy_options
def eval_command(chosen: Chosen, as_json: bool, **options: Any) -> int:
    """Score a policy: resolve rate with its interval and coverage, and what the infrastructure lost. The same command resumes."""
    return carry_out("eval", chosen, as_json, band=(0.0, 1.0), **options)


@click.command("infer")
@click.option("--above", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Keep tasks solved more often than this.")
@click.option("--below", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="... and less often than this.")
@policy_options
def infer_command(chosen: Chosen, as_json: bool, above: float, below: float, **options: Any) -> int:
    """Sample k attempts a task: trajectories (ATIF), rewards, and an index of the tasks within a difficulty band. Resumes."""
    return carry_out("infer", chosen, as_json, band=(above, below), **options)


def carry_out(
    mode: str,
    chosen: Chosen,
    as_json: bool,
    *,
    band: tuple[float, float],
    policy: str | None,
    model_name: str | None,
    index_file: Path | None,
    samples: int | None,
    tasks: int | None,
    name: str | None,
    fresh: bool,
) -> int:
    from swerl.data.difficulty import Band
    from swerl.data.index import read
    from swerl.evaluate import policies, report
    from swerl.evaluate.launch import UPSTREAM_KEYS, ask_upstream, evaluate, free_port, is_free
    from swerl.evaluate.order import Order, sha256, size
    from swerl.record.redact import redact
    from swerl.record.rundir import RunDir
    from swerl.runs.display import open_display

    say = lambda line: click.echo(line, err=as_json)  # noqa: E731
    given = {"--policy": policy, "--model-name": model_name, "--index": index_file, "--attempts": samples, "--tasks": tasks, "--name": name}
    given |= {"--above": band[0], "--below": band[1]} if mode == "infer" else {}
    again = [word for option, value in given.items() if value is not None for word in (option, redact(str(value), []))]
    Band(*band)
    asked_of = chosen.load()
    picked = policies.choose(asked_of, policy)
    if picked.url is not None:
        ask_upstream(picked.url, next((os.environ[key] for key in UPSTREAM_KEYS if os.environ.get(key)), ""))
    index_path = (index_file or (asked_of.data.val_index if mode == "eval" else asked_of.data.train_index)).absolute()
    indexed = len(read(index_path))
    config = derived(chosen, asked_of, mode, name or f"{asked_of.run_id}.{mode}", index_path, {})
    place = RunDir.at(config.run_dir)
    changes: dict[str, str] = {}
    if picked.url is None:
        changes["model.model_path"] = str(policies.merged(picked, config, place.root / "policy", say))
    if not is_free(config.infrastructure.bind_host, config.infrastructure.litellm_port):
        changes["infrastructure.litellm_port"] = str(free_port())  # training has the configured one
    config = derived(chosen, asked_of, mode, place.id, index_path, changes)
    if checked := preflight(config, say):
        return checked
    some, wanted = size(mode, config, tasks, samples)
    order = Order(
        mode=mode,  # type: ignore[arg-type]
        policy=picked.name,
        version=picked.version,
        index=str(index_path),
        index_sha256=sha256(index_path),
        tasks=some,
        samples=wanted,
        above=band[0],
        below=band[1],
        engine_port=0 if picked.url else free_port(),
        upstream=picked.url,
        upstream_model=model_name,
    )
    taken = min(some or indexed, indexed)
    say(f"{mode} {picked.name} ({picked.version}) in {place.root}")
    say(f"{taken:,} of {indexed:,} tasks, {wanted} attempts at each: {taken * wanted:,} attempts (--tasks and --attempts choose others)")
    outcome, found = evaluate(config, order, open_display if not as_json else _Silent, fresh=fresh, notice=say)
    if outcome is not None and outcome.problem is not None:
        click.echo(str(outcome.problem), err=True)
    if found is None:
        say(f"{mode} is not finished; what has settled is kept")
        say_next(f"{swerl(mode, *again, chosen=chosen)}  # goes on from here") if not as_json else None
        return 130 if outcome is not None and outcome.by_signal else 1
    if as_json:
        say_json(found)
        return 0
    click.echo(report.text(found))
    if mode == "infer":
        h = found["harvest"]
        click.echo(
            f"kept       {h['kept']} tasks in {place.root / 'filtered.parquet'} ({h['too_hard']} too hard, {h['too_easy']} too easy)"
        )
        click.echo(f"attempts   {h['trajectories']} of {h['attempts']} with a trajectory, in {place.root / 'attempts.jsonl'}")
    click.echo(f"results    {place.root / 'evaluation.json'}")
    if mode == "eval":
        say_next(f"{swerl(mode, *again, '--fresh', chosen=chosen)}  # begins anew; this evaluation is kept beside it")
    else:
        say_next(swerl("data", "index", "check", place.root / "filtered.parquet"))
    return 0


def derived(chosen: Chosen, base: RunConfig, mode: str, name: str, index_path: Path, changes: dict[str, str]) -> RunConfig:
    """The configuration of the evaluation: the user's, under its own name, on its own index, without training's checkpoints.

    `infer` samples as training does: an attempt that repeats another says nothing about difficulty."""
    a = base.algorithm
    sampled = {"temperature": a.temperature, "top_p": a.top_p, "top_k": a.top_k} if mode == "infer" else {}
    ours = {
        "experiment.exp_name": name,
        "data.val_index": str(index_path),
        **{f"algorithm.val_{key}": str(value) for key, value in sampled.items()},
        **({"algorithm.val_do_sample": "true"} if sampled else {}),
        **changes,
    }
    return replace(chosen, overrides={**chosen.overrides, **ours}).load()


def preflight(config: RunConfig, say: Callable[[str], None]) -> int:
    from swerl.preflight import run

    report = run(config, only=FAMILIES, skip=TRAINING_ONLY)
    for problem in [*report.fatal, *report.warnings]:
        say(f"{problem.severity}: {problem}")
    return 0 if report.ok else 1


class _Silent:
    """Nothing but the answer: what a program reads."""

    def line(self, text: str) -> None: ...

    def show(self, progress: Any) -> None: ...

    def close(self) -> None: ...
