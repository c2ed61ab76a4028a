"""The command line as a user meets it: real calls, exit codes, next commands."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from swerl.cli import VERBS, run
from swerl.config.schema import PROJECT_ROOT

HEAVY = ("torch", "vllm", "ray", "verl", "wandb", "transformers", "harbor", "litellm")
DEMO = ("--config", str(PROJECT_ROOT / "config.yaml"), "--profile", "demo-cpu")


def swerl(*words, cwd=None):
    done = subprocess.run([sys.executable, "-m", "swerl.cli", *words], capture_output=True, text=True, cwd=cwd, timeout=120)
    return done.returncode, done.stdout, done.stderr


def loaded_by(code):
    """Modules in memory after ``code`` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines())


def test_help_loads_click_and_next_to_nothing_else():
    bare = loaded_by("pass")
    modules = loaded_by("import swerl.cli; swerl.cli.run(['--help'])") - bare
    roots = {name.partition(".")[0] for name in modules}
    assert {name for name in modules if name.startswith("swerl")} == {"swerl", "swerl.cli", "swerl.errors"}
    third_party = roots - set(sys.stdlib_module_names) - {"swerl"}
    assert third_party == {"click"}, "what --help loads decides whether it answers in 0.3 s"


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_loads_anything_heavy_before_it_works(verb):
    modules = loaded_by(f"import swerl.cli; swerl.cli.run([{verb!r}, '--help'])")
    assert not {name.partition(".")[0] for name in modules} & set(HEAVY)


def test_every_verb_exists_and_is_described_in_the_list():
    code, out, _ = swerl("--help")
    assert code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in out
        code, help_text, error = swerl(verb, "--help")
        assert code == 0 and "Usage: swerl" in help_text, error


def test_a_misspelt_verb_is_misuse_and_the_right_one_is_named():
    code, _, error = swerl("statsu")
    assert code == 2 and "did you mean `status`?" in error


def test_validate_says_where_and_exits_1_for_problems_2_for_misuse(tmp_path):
    code, out, _ = swerl("validate", *DEMO)
    assert code == 0 and "is valid" in out and "swerl preflight" in out.rpartition("next: ")[2]
    (tmp_path / "config.yaml").write_text("training:\n  total_epoch: 3\n")
    code, out, _ = swerl("validate", cwd=tmp_path)
    assert code == 1 and "config.yaml:2:3" in out and "total_epochs" in out
    code, out, _ = swerl("validate", "--json", cwd=tmp_path)
    found = json.loads(out)
    assert code == 1 and not found["ok"] and found["problems"][0]["id"].startswith("SWERL-C")
    assert swerl("validate", "--set", "nonsense")[0] == 2
    code, out, error = swerl("validate", "--config", "none.yaml", cwd=tmp_path)
    assert code == 1 and "SWERL-C" in error + out


def test_a_problem_is_json_where_json_was_asked_for(tmp_path):
    code, out, error = swerl("status", "nobody", "--runs-dir", str(tmp_path), "--json")
    assert code == 1 and error == ""
    assert json.loads(out)["problems"][0]["id"] == "SWERL-R016"


def test_render_shows_and_writes(tmp_path):
    code, out, _ = swerl("render", *DEMO)
    assert code == 0 and "MODEL_PATH=" in out and "trainer.n_gpus_per_node=1" in out
    code, out, _ = swerl("render", *DEMO, "--out", str(tmp_path / "out"))
    assert code == 0 and {path.name for path in (tmp_path / "out").iterdir()} == {"run.env", "verl.overrides", "agent_loop.yaml"}
    code, out, _ = swerl("render", *DEMO, "--json")
    assert "overrides" in json.loads(out)


def test_preflight_without_a_model_names_it_and_exits_1():
    code, out, _ = swerl("preflight", "--config", str(PROJECT_ROOT / "config.yaml"), "--static")
    assert code == 1 and "SWERL-C007" in out and "SAFE TO RUN: no" in out
    code, out, _ = swerl("preflight", "--explain", "SWERL-P901")
    assert code == 0 and "checkpoint" in out
    assert swerl("preflight", "--only", "no-such-family", *DEMO)[0] == 2


def test_train_does_not_start_what_preflight_refuses(tmp_path):
    runs = tmp_path / "runs"
    sets = ("--set", f"experiment.runs_dir={runs}", "--set", f"model.model_path={tmp_path / 'nothing'}")
    code, out, _ = swerl("train", *DEMO, *sets)
    assert code == 1 and "SAFE TO RUN: no" in out and "next: mend" in out
    assert not runs.exists(), "a refused run leaves nothing"


def test_status_stop_resume_and_clean_of_nothing(tmp_path):
    code, out, _ = swerl("status", "--runs-dir", str(tmp_path), cwd=tmp_path)
    assert code == 0 and "no run has been started here" in out
    for verb in ("stop", "resume", "artifacts"):
        code, _, error = swerl(verb, "--runs-dir", str(tmp_path), cwd=tmp_path)
        assert code == 1 and "SWERL-R019" in error, verb
    assert swerl("clean", "--runs-dir", str(tmp_path), cwd=tmp_path)[0] == 0
    assert list(tmp_path.iterdir()) == [], "asking creates nothing"
    code, _, error = swerl("status", "../etc", "--runs-dir", str(tmp_path), cwd=tmp_path)
    assert code == 1 and "SWERL-R001" in error


def test_which_run_is_meant_where_none_is_named(tmp_path):
    """Two that are alive and one that has ended after them: what shows takes a living one, what ends does not guess."""
    from swerl.record.process import this_process
    from swerl.record.registry import Registry
    from swerl.record.rundir import RunDir
    from swerl.record.states import State

    def make(name: str, ends: bool) -> None:
        run = RunDir.of(tmp_path, name)
        run.create()
        run.manifest.write_text("[]")
        registry = Registry(run.registry)
        registry.prepare(name, "digest")
        registry.begin(name, this_process(), 3)
        if ends:
            registry.move(name, State.COMPLETED)
        registry.close()

    at = ("--runs-dir", str(tmp_path))
    make("one", False), make("over", True)
    assert "run one: running" in swerl("status", *at, cwd=tmp_path)[1]
    make("two", False)
    code, out, error = swerl("stop", *at, cwd=tmp_path)
    assert code == 1 and "SWERL-R023" in error and "2 runs are alive: " in error and "asked" not in out
    code, out, _ = swerl("stop", "over", *at, cwd=tmp_path)
    assert code == 0 and "run over is not alive: it is completed" in out and "swerl artifacts over" in out.rpartition("next: ")[2]
    code, _, error = swerl("resume", *at, cwd=tmp_path)
    assert code == 1 and "over" in error, "the one that has ended, whose configuration this test never wrote"


@pytest.mark.slow
def test_status_stop_and_clean_of_a_run(tmp_path):
    standin = PROJECT_ROOT / "tests" / "runs" / "standin.py"
    subprocess.run([sys.executable, str(standin), "launch", str(tmp_path), "training.total_steps=3"], check=True, capture_output=True)
    at = ("--runs-dir", str(tmp_path))
    code, out, _ = swerl("status", *at, cwd=tmp_path)
    assert code == 0 and "run demo-cpu: completed" in out and "step       3 of 3" in out and "reward     0.500" in out
    code, out, _ = swerl("status", "demo-cpu", *at, "--json", cwd=tmp_path)
    found = json.loads(out)
    assert (found["run"]["state"], found["last_step"], found["alarms"]) == ("completed", 3, [])
    code, out, _ = swerl("stop", *at, cwd=tmp_path)
    assert code == 0 and "is completed at step 3; nothing of it is running" in out
    code, out, _ = swerl("clean", *at, cwd=tmp_path)
    assert code == 0 and "demo-cpu: nothing was left" in out and (tmp_path / "demo-cpu").exists()
    code, _, _ = swerl("clean", "demo-cpu", *at, cwd=tmp_path)
    assert code == 130 and (tmp_path / "demo-cpu").exists(), "no answer is a no"
    code, out, _ = swerl("clean", "demo-cpu", "--yes", *at, cwd=tmp_path)
    assert code == 0 and not (tmp_path / "demo-cpu").exists()
    code, out, _ = swerl("status", *at, cwd=tmp_path)
    assert "no run has been started here" in out


def test_config_migrate_explain_and_docs(tmp_path):
    old = tmp_path / "old.yaml"
    old.write_text("meta_info: {name: rl}\nruntime_info:\n  input:\n    vllm: {gen_tp: 2}\n")
    code, out, notices = swerl("config", "migrate", str(old))
    assert code == 0 and "gen_tp: 2" in out and "note: " in notices
    code, out, _ = swerl("config", "migrate", str(old), "--out", str(tmp_path / "new.yaml"))
    assert code == 0 and "swerl validate" in out.rpartition("next: ")[2] and (tmp_path / "new.yaml").exists()
    code, out, _ = swerl("config", "explain", "vllm.gen_tp")
    assert code == 0 and "tensor" in out.lower()


@pytest.mark.parametrize(
    ("error", "id"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "SWERL-R015"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "SWERL-R015"),
        (sqlite3.OperationalError("database or disk is full"), "SWERL-R015"),
        (OSError(errno.EIO, "Input/output error"), "SWERL-R052"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "SWERL-R052"),
        (sqlite3.OperationalError("disk I/O error"), "SWERL-R052"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "SWERL-R052"),
    ],
)
def test_what_a_disk_does_not_take_is_a_problem_with_an_id(error, id, monkeypatch, capsys):
    import swerl.cli

    def full(**kwargs):
        raise error

    monkeypatch.setattr(swerl.cli.cli, "main", full)
    assert run(["status"]) == 1
    assert f"{id} " in capsys.readouterr().err


def test_other_errors_of_the_system_are_not_disguised(monkeypatch):
    import swerl.cli

    def broken(**kwargs):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(swerl.cli.cli, "main", broken)
    with pytest.raises(OSError, match="No such device"):
        run(["status"])


@pytest.mark.skipif(shutil.which("make") is None, reason="the Makefile needs make")
def test_make_alone_lists_the_verbs_and_each_calls_a_verb_that_exists():
    command = ["make", "-C", str(PROJECT_ROOT)]
    listed = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=True).stdout
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    called = {line.split()[1] for line in makefile.splitlines() if line.startswith("\t@$(SWERL) ")}
    assert called <= set(VERBS)
    for verb in (*called - {"env"}, "agents", "setup", "test", "test-fast", "test-all", "bench", "lint"):
        assert f"make {verb} " in listed
    for word in makefile.split(".PHONY:")[1].splitlines()[0].split():
        assert f"\n{word}:" in makefile


def test_the_console_script_is_this_command_line():
    script = Path(sys.executable).with_name("swerl")
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("swerl, version ")
