"""The ``swerl gateway`` verbs. `verify` is the only one: the server itself is started by a run or by ``python -m swerl.gateway``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click
import orjson

from swerl.errors import fail

TOLERANCE = 1e-3


@click.group()
def gateway() -> None:
    """Look at what the gateway recorded."""


@gateway.command("verify")
@click.argument("recordings", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The policy; else the run's own weights.")
@click.option("--version", type=int, default=None, help="With --model: only tokens that this step's weights sampled.")
@click.option("--raw", is_flag=True, help="The engine reports log-probabilities before the temperature (a plain vLLM server).")
@click.option("--tolerance", default=TOLERANCE, show_default=True, help="Largest difference that still agrees.")
@click.option("--json", "as_json", is_flag=True, help="Give the verdict as JSON.")
def verify_command(
    recordings: tuple[Path, ...], model: Path | None, version: int | None, raw: bool, tolerance: float, as_json: bool
) -> int:
    """Re-score RECORDINGS with the policy and compare log-probabilities token by token.

    A recording is a session's journal (runs/NAME/gateway/sessions/ID.jsonl), the JSON of its recording, or a directory of journals. In a
    run each is compared with the weights of its trial's version: the run's policy, or the checkpoint of that version. Recordings of
    versions that were not saved are counted and passed over; --model compares with other weights.
    """
    from swerl.gateway.verify import combined, load_recording, scorer, verify
    from swerl.gateway.weights import Comparison, comparisons

    files = [file for place in recordings for file in (sorted(place.glob("*.jsonl")) if place.is_dir() else [place])]
    if not files:
        raise fail("SWERL-G010", "no recording here", "name a session's journal, or a directory of them", str(recordings[0]))
    missing: Mapping[str, int] = {}
    if model is None:
        found, missing = comparisons(files)
    else:
        found = [Comparison(file, load_recording(file), "", model, version) for file in files]
    verdicts = {}
    for path, group in groupby(found, key=lambda c: c.model):
        score = scorer(path)
        for one in group:
            verdicts[one.file.name] = verify(one.recording.rows, score, temperature=one.recording.temperature, raw=raw, version=one.step)
    whole = combined(list(verdicts.values()))
    agrees = whole.agrees(tolerance)
    if as_json:
        each = {name: asdict(verdict) for name, verdict in verdicts.items()}
        told = {"agrees": agrees, "tolerance": tolerance, **asdict(whole), "not_compared": dict(missing), "recordings": each}
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0 if agrees else 1
    click.echo(f"{_count(len(found), 'recording')}, {_count(whole.paths, 'path')}, {_count(whole.tokens, 'token')} compared")
    for name, path in sorted({(c.version, c.model) for c in found if c.version}, key=lambda of: _by_step(of[0])):
        click.echo(f"  {name}: {path}")
    if missing:
        names = ", ".join(sorted(missing, key=_by_step))
        click.echo(f"{_count(sum(missing.values()), 'recording')} not compared; no weights on disk of {names}")
    if whole.tokens == 0:
        click.echo("nothing to compare: " + ("name the weights with --model" if missing else "no token was sampled by these weights"))
        return 1
    click.echo(f"log-probabilities differ by at most {whole.max_difference:.2e}, by {whole.mean_difference:.2e} on average")
    if agrees:
        click.echo(f"they agree (tolerance {tolerance:g})")
        return 0
    name, verdict = max(verdicts.items(), key=lambda item: item[1].max_difference if item[1].tokens else -1.0)
    assert verdict.worst is not None
    row, position, token, recorded, computed = verdict.worst
    click.echo(f"worst: {name}, path {row}, token {position} of the response ({token}): recorded {recorded:.6f}, computed {computed:.6f}")
    click.echo("they do not agree: other weights (--model, --version), the temperature (--raw), or a wrong recording")
    return 1


def _by_step(version: str) -> tuple[str, int]:
    lineage, _, step = version.rpartition(":")
    return lineage, int(step) if step.isdigit() else -1


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
