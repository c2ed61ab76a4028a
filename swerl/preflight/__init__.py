"""Preflight: everything that can be known before a run starts, found in seconds and named by id. It reads; it never writes.

``run(cfg)`` looks at a configuration and this machine and returns a ``Report``; ``run_file(path, profile)`` begins at the file, so that
what is wrong with it is in the same report. ``explain(id)`` says in words what an id means and what to do about it. One module
per family of checks; ``catalog`` lists them all. ``predict(cfg)`` foresees memory, KV cache and disk from the policy's config.json alone.

Invariants: nothing here imports torch, vllm, ray, verl, wandb, transformers or harbor (what needs one of them asks a subprocess of the
environment that has it); the static part takes at most a second and the live part ten; a probe that hangs is a finding, not a hang.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from swerl.config import RunConfig, examine
from swerl.errors import Problem, SwerlError, fail
from swerl.facts.memory import ASSUMED_GPU_BYTES, Forecast
from swerl.facts.memory import forecast as forecast_of_plan
from swerl.facts.plan import plan_of
from swerl.facts.shape import ShapeError, read_shape
from swerl.forecast.outlook import outlook
from swerl.forecast.text import render as render_forecast
from swerl.preflight.catalog import CHECKS
from swerl.preflight.context import Context, Host
from swerl.preflight.explain import explain
from swerl.preflight.report import Report
from swerl.preflight.runner import run_checks, select, within
from swerl.preflight.summary import forecast_of, summary

LAST_WORDS_S = 2.0  # for summary and forecast, which read what the checks have read


def run(
    cfg: RunConfig,
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    live: bool = True,
    deep: bool = False,
    patience: float | None = None,
    problems: Iterable[Problem] = (),
    env: Mapping[str, str] | None = None,
    host: Host | None = None,
) -> Report:
    """Run the checks wanted and report. ``only`` and ``skip`` take ids and families (ValueError for an unknown one); ``deep`` adds the
    checks that take longer than ten seconds; ``patience`` multiplies every time limit (default: the
    machine's load for each processor). ``problems`` are what the configuration room
    found in the file."""
    ctx = Context(cfg, problems=problems, env=env, host=host, patience=patience)
    wanted = select(CHECKS, only=only, skip=skip, live=live, deep=deep)
    started = time.monotonic()
    static = run_checks((c for c in wanted if not c.live), ctx)
    between = time.monotonic()
    rest = run_checks((c for c in wanted if c.live), ctx)
    ended = time.monotonic()
    by_id = {r.id: r for r in [*static, *rest]}
    told = ("", ()) if only else within(LAST_WORDS_S * ctx.patience, lambda: (_foreseen(ctx), summary(ctx)), ("", ()))
    return Report(
        results=tuple(by_id[c.id] for c in wanted),
        summary=told[1],
        forecast=told[0],
        static_s=between - started,
        live_s=ended - between,
    )


def _foreseen(ctx: Context) -> str:
    found = forecast_of(ctx)
    return render_forecast(found, outlook(found)) if found else ""


def run_file(
    path: Path,
    profile: str | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    live: bool = True,
    deep: bool = False,
    patience: float | None = None,
    env: Mapping[str, str] | None = None,
    host: Host | None = None,
) -> Report:
    """The same, beginning at the file. Where no configuration can be built from it, its problems are the whole report."""
    try:
        found = examine(path, profile, overrides or {}, env)
    except SwerlError as error:
        return Report.of_problems(CHECKS[0], error.problems)
    if found.config is None:
        return Report.of_problems(CHECKS[0], found.problems)
    return run(found.config, only=only, skip=skip, live=live, deep=deep, patience=patience, problems=found.problems, env=env, host=host)


def predict(
    cfg: RunConfig,
    *,
    model_config: Path | None = None,
    gpu_memory_bytes: int | None = None,
    steps: int | None = None,
    val_tasks: int | None = None,
) -> Forecast:
    """What a run of this configuration will need, without looking at anything but the policy's ``config.json`` (``model_config`` names
    another one) and the indexes where they are there: their rows give the steps, unless ``steps`` does, and the validation's size, unless
    ``val_tasks`` does. GPUs of 80 GiB are assumed unless their size is given. Raises SwerlError SWERL-P101 where there is no such file or
    it describes no language model."""
    path = model_config or cfg.model.model_path / "config.json"
    try:
        shape = read_shape(path)
    except (OSError, ShapeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise fail("SWERL-P101", f"it cannot be read: {reason}", "name the config.json of a language model", str(path)) from error
    memory = None if cfg.infrastructure.device == "cpu" else gpu_memory_bytes or ASSUMED_GPU_BYTES
    ctx = Context(cfg)
    plan = plan_of(cfg, steps=steps or ctx.steps(), gpu_memory_bytes=memory, val_tasks=ctx.val_tasks() if val_tasks is None else val_tasks)
    return forecast_of_plan(shape, plan)


__all__ = ["CHECKS", "Host", "Report", "explain", "predict", "run", "run_file"]
