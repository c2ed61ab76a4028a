"""What is rendered for the shipped profiles, word for word. ``UPDATE_GOLDEN=1`` rewrites the files; read the difference before a commit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from swerl.record.rundir import RunDir
from swerl.render import render, write

GOLDEN = Path(__file__).parent / "golden"
PROFILES = {"config": None, **{path.stem: path.stem for path in sorted((Path(__file__).parents[2] / "profiles").glob("*.yaml"))}}


def text_of(rendered, root: Path) -> str:
    parts = {
        "run.env": rendered.environment_file,
        "environment of the trainer": orjson.dumps(rendered.environment, option=orjson.OPT_INDENT_2).decode() + "\n",
        "environment of the runner": orjson.dumps(rendered.runner_environment, option=orjson.OPT_INDENT_2).decode() + "\n",
        "verl overrides": "\n".join(rendered.overrides) + "\n",
        "agent_loop.yaml": rendered.agent_loop,
        "trial settings": orjson.dumps(rendered.trial, option=orjson.OPT_INDENT_2).decode() + "\n",
    }
    return "\n".join(f"==== {name}\n{text}" for name, text in parts.items()).replace(str(root), "<project>")


@pytest.mark.parametrize("name", list(PROFILES))
def test_rendered_text(name, config, run, root):
    text = text_of(render(config(PROFILES[name]), run), root)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_rendering_is_repeatable(config, run):
    assert render(config("demo-cpu"), run) == render(config("demo-cpu"), run)


def test_files_are_written_whole_and_private(config, tmp_path):
    run = RunDir.at(tmp_path / "run")
    rendered = render(config("demo-cpu"), run)
    files = write(rendered, run)
    assert {p.name for p in files} == {"run.env", "environment.json", "verl.overrides", "agent_loop.yaml", "trial.json"}
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in files)
    assert (run.render / "agent_loop.yaml").read_text() == rendered.agent_loop


def test_several_machines_get_ray_commands(config, run, tmp_path):
    several = config(None, {"infrastructure.nnodes": 2, "infrastructure.node0_ip": "10.0.0.1"})
    rendered = render(several, run)
    assert "--port=6379" in rendered.ray["head"] and "--address=10.0.0.1:6379" in rendered.ray["join"]
    assert "+ray_kwargs.ray_init.address='10.0.0.1:6379'" in rendered.overrides
    assert not any("_temp_dir" in o or "num_cpus" in o for o in rendered.overrides)
    assert (tmp_path / "run/render/ray.json") in write(rendered, RunDir.at(tmp_path / "run"))


# Secrets


def test_no_secret_in_anything_that_is_written(config, run, tmp_path):
    secret = "a-very-secret-key"
    c = config("demo-cpu", env={"WANDB_API_KEY": secret})
    target = RunDir.at(tmp_path / "run")
    for path in write(render(c, target), target):
        assert secret not in path.read_text()


def test_the_trainer_gets_the_secret_and_the_mode_that_goes_with_it(config, run):
    from swerl.render import process_environment, public_environment

    online = {"credentials.wandb_mode": "online"}
    with_key = config("h100x1", online, env={"WANDB_API_KEY": "k" * 40})
    assert process_environment(with_key, run)["WANDB_API_KEY"] == "k" * 40
    assert "WANDB_API_KEY" not in public_environment(with_key, run)
    assert public_environment(with_key, run)["WANDB_MODE"] == "online"
    assert public_environment(config("h100x1", online), run)["WANDB_MODE"] == "offline"


def test_equal_values_render_alike_whatever_their_source(config, run):
    base = config("demo-cpu")
    elsewhere = replace(base, source=dict.fromkeys(base.source, "elsewhere"))
    assert render(elsewhere, run) == render(base, run)
