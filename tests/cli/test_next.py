"""What a verb says to do next is a command: a shell and the command line read it back as what was meant."""

from __future__ import annotations

import ast
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.cli import VERBS, cli
from swerl.cli.evaluate import policy_options
from swerl.cli.next_step import of_run, program, say_next, swerl
from swerl.cli.options import Chosen, config_options
from swerl.config.schema import PROJECT_ROOT, keys
from swerl.record.rundir import RunDir

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(lambda text: not text.startswith("-"))


@given(WORDS, WORDS, st.dictionaries(st.sampled_from(["model.model_path", "data.data_dir", "training.lr"]), WORDS, max_size=2))
def test_the_choice_of_a_configuration_comes_back(file: str, profile: str, overrides: dict[str, str]):
    chosen = Chosen(Path(file), profile, overrides)
    seen = []

    @click.command()
    @config_options
    def verb(chosen: Chosen) -> None:
        seen.append(chosen)

    _, name, *words = shlex.split(swerl("train", chosen=chosen))
    assert name == "train"
    verb.main(words, standalone_mode=False)
    assert seen == [chosen]


def test_a_shell_finds_the_program_and_reads_the_words_as_they_were(tmp_path: Path):
    place = tmp_path / "a place with 'quotes' and $HOME"
    place.mkdir()
    line = swerl("validate", "--config", place / "no such.yaml")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=Path.cwd(), timeout=60)
    assert done.returncode != 127 and str(place) in done.stdout + done.stderr, done


def test_the_program_is_named_as_a_shell_here_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(PROJECT_ROOT)
    assert subprocess.run(["sh", "-c", f"command -v {program()}"], stdout=subprocess.DEVNULL).returncode == 0
    monkeypatch.chdir(tmp_path)
    assert Path(shlex.split(program())[0]).is_absolute()


def test_a_secret_is_not_said_again():
    [secret] = [key for key in keys().values() if key.name == "credentials.wandb_api_key"]
    line = swerl("train", chosen=Chosen(Path("config.yaml"), None, {secret.name: "made-up-secret-1"}))
    assert "made-up-secret-1" not in line and line.endswith(f'--set {secret.name}="${{{secret.env}:?}}"')
    found = subprocess.run(["sh", "-c", f"echo {line}"], capture_output=True, text=True, env={secret.env: "it is"}, check=True)
    assert found.stdout.endswith(f"{secret.name}=it is\n")


def test_a_run_is_named_with_its_place_where_that_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(of_run("stop", RunDir.of(tmp_path / "runs", "one")))[1:] == ["stop", "one"]
    elsewhere = of_run("stop", RunDir.of(tmp_path / "other runs", "one"), "--now")
    assert shlex.split(elsewhere)[1:] == ["stop", "one", "--runs-dir", str(tmp_path / "other runs"), "--now"]


def test_what_has_to_be_done_by_hand_is_no_part_of_the_command(capsys: pytest.CaptureFixture[str]):
    say_next(swerl("train"), first="mend what is fatal")
    first, command = capsys.readouterr().out.splitlines()
    assert first == "next: mend what is fatal, then" and command.strip() == swerl("train")


def _calls() -> list[tuple[str, list[str | None]]]:
    """(file:line, words) of every `swerl` and `of_run` in the command line's sources; None for a word that is known only as it runs."""
    found = []
    for path in sorted((PROJECT_ROOT / "swerl" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("swerl", "of_run")
                and path.stem != "next_step"
            ):
                words = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
                found.append((f"{path.name}:{node.lineno}", [words[0], *words[2:]] if node.func.id == "of_run" else words))
    return found


def test_every_command_that_is_said_exists_and_knows_its_options():
    calls = _calls()
    assert len(calls) > 25
    for where, words in calls:
        if words[0] is None:  # one of two verbs, or the mode of an evaluation
            continue
        assert words[0] in VERBS, where
        command = cli.get_command(click.Context(cli), words[0])
        for word in words[1:]:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words[1:] if word and word.startswith("--")} <= options, where


def test_nobody_writes_a_command_for_next_by_hand():
    for path in (PROJECT_ROOT / "swerl" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say_next":
                texts = [
                    part.value
                    for arg in node.args
                    for part in ast.walk(arg)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                assert not any(text.startswith("swerl ") for text in texts), f"{path.name}:{node.lineno}"


def test_an_evaluation_says_all_of_its_options_again(monkeypatch: pytest.MonkeyPatch):
    """As its verb gives them to `swerl`, so does the command line read them."""
    given = {"policy": "http://h:1/v1", "model_name": "a b", "tasks": 5, "samples": 2, "name": "mine", "index_file": Path("x y.parquet")}
    words = ["--policy", "http://h:1/v1", "--model-name", "a b", "--tasks", 5, "--attempts", 2, "--name", "mine", "--index", "x y.parquet"]
    seen = {}

    @click.command()
    @policy_options
    def verb(**options) -> None:
        seen.update(options)

    verb.main(shlex.split(swerl("eval", *words))[2:], standalone_mode=False)
    assert {name: seen[name] for name in given} == given
