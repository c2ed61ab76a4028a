"""The ``swerl gateway`` verbs. `verify` is the only one: the server itself is started by a run or by ``python -m swerl.gateway``."""

from __future__ import annotations

from dataclasses import asdict
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
@click.option("--model", "model_path", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="The policy.")
@click.option("--version", type=int, default=None, help="Only tokens that this version of the weights sampled.")
@click.option("--raw", is_flag=True, help="The engine reports log-probabilities before the temperature (a plain vLLM server).")
@click.option("--tolerance", default=TOLERANCE, show_default=True, help="Largest difference that still agrees.")
@click.option("--json", "as_json", is_flag=True, help="Give the verdict as JSON.")
def verify_command(recordings: tuple[Path, ...], model_path: Path, version: int | None, raw: bool, tolerance: float, as_json: bool) -> int:
    """Re-score RECORDINGS with the policy and compare log-probabilities token by token.

    A recording is a session's journal (runs/NAME/gateway/sessions/ID.jsonl), the JSON of its recording, or a directory of journals. The
    policy is the model directory whose weights sampled it; where a run has trained meanwhile, --version picks the tokens of one.
    """
    from swerl.gateway.verify import combined, load_rows, scorer, verify

    files = [file for place in recordings for file in (sorted(place.glob("*.jsonl")) if place.is_dir() else [place])]
    if not files:
        raise fail("SWERL-G010", "no recording here", "name a session's journal, or a directory of them", str(recordings[0]))
    score = scorer(model_path)
    verdicts = {}
    for file in files:
        rows, temperature = load_rows(file)
        verdicts[file.name] = verify(rows, score, temperature=temperature, raw=raw, version=version)
    whole = combined(list(verdicts.values()))
    agrees = whole.agrees(tolerance)
    if as_json:
        each = {name: asdict(verdict) for name, verdict in verdicts.items()}
        told = {"agrees": agrees, "tolerance": tolerance, **asdict(whole), "recordings": each}
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0 if agrees else 1
    click.echo(f"{_count(len(files), 'recording')}, {_count(whole.paths, 'path')}, {_count(whole.tokens, 'token')} compared")
    if whole.tokens == 0:
        click.echo("nothing to compare: no token was sampled" + ("" if version is None else f" under version {version}"))
        return 1
    click.echo(f"log-probabilities differ by at most {whole.max_difference:.2e}, by {whole.mean_difference:.2e} on average")
    if agrees:
        click.echo(f"they agree (tolerance {tolerance:g})")
        return 0
    name, verdict = max(verdicts.items(), key=lambda item: item[1].max_difference if item[1].tokens else -1.0)
    assert verdict.worst is not None
    path, position, token, recorded, computed = verdict.worst
    click.echo(f"worst: {name}, path {path}, token {position} of the response ({token}): recorded {recorded:.6f}, computed {computed:.6f}")
    click.echo("they do not agree: other weights (--version), the temperature (--raw), or a wrong recording")
    return 1


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
