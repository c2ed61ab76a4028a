"""The smoke verb: one real step of the user's own profile, and a verdict."""

from __future__ import annotations

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, patience_option, say_json


@click.command()
@config_options
@click.option("--keep", is_flag=True, help="Keep the checkpoint of the one step.")
@patience_option
@json_option
def smoke(chosen: Chosen, keep: bool, patience: float | None, as_json: bool) -> int:
    """Train one step of 8 x 4 trials with the profile as it is otherwise, and judge it.

    Do engine and trainer agree, are learning rate, reward and turns not 0, is the memory what was foreseen? Exit 1 if a gate is not
    passed."""
    from dataclasses import asdict

    from swerl.cli.train import carry_out, check
    from swerl.config import load
    from swerl.preflight import predict
    from swerl.record.rundir import RunDir
    from swerl.runs import smoke as room

    whole = chosen.load()
    sets = room.cut(whole)
    config = load(chosen.file, chosen.profile, {**chosen.overrides, **sets})
    run = RunDir.at(config.run_dir)
    training = config.training
    click.echo(f"smoke: {chosen}, cut to {training.train_batch_size} x {training.n_resp_per_prompt} trials and one step, as {run.id}")
    if check(config, patience, skip=("SWERL-P307",)):  # one step is neither validated nor spread over saves
        say_next(swerl("smoke", chosen=chosen), first="mend what is fatal")
        return 1
    room.remove(run)
    code = carry_out(config, fresh=False, then=False)
    found = room.gates(run, config, predict(config))
    if not keep:
        room.remove_checkpoints(run)
    ok = code == 0 and all(gate.ok is not False for gate in found)
    if as_json:
        say_json({"ok": ok, "run": str(run.root), "gates": [asdict(gate) for gate in found]})
    else:
        click.echo(room.render(found))
        click.echo(f"smoke: {'every gate is passed' if ok else 'not passed'}")
        say_next(swerl("train" if ok else "smoke", chosen=chosen), first="" if ok else "mend the first gate that failed")
    return 0 if ok else 1
