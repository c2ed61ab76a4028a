"""The scripts behind make: bootstrap's errors, and which test runs where."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swerl.config.schema import PROJECT_ROOT

BOOTSTRAP = PROJECT_ROOT / "scripts" / "bootstrap.sh"
TOOLS = (
    *("bash", "cat", "cut", "dirname", "flock", "grep", "head", "id", "mkdir"),
    *("sha256sum", "sort", "uname", "du", "ldconfig", "git", "bwrap", "env", "chmod", "rm"),
)
ELSEWHERE = [*Path("/usr/local/bin").glob("python3.12"), *Path("/opt").glob("python*/bin/python3.12")]


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own with what set-up reads, and a PATH without Python or uv."""
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(PROJECT_ROOT / name, tmp_path)
    shutil.copytree(PROJECT_ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(PROJECT_ROOT / "packages", tmp_path / "packages")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name) or shutil.which(name, path="/sbin:/usr/sbin")
        assert found, f"this test needs {name}"
        (tools / name).symlink_to(found)

    def bootstrap(*words, **environment):
        command = [str(tools / "bash"), str(tmp_path / "scripts" / "bootstrap.sh"), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={"PATH": str(tools), "HOME": str(tmp_path), **environment}
        )
        return done.returncode, done.stdout + done.stderr

    bootstrap.tools, bootstrap.root = tools, tmp_path
    return bootstrap


@pytest.mark.skipif(bool(ELSEWHERE), reason="this machine has a Python 3.12 in a place that is looked at by path")
def test_without_python_312_it_says_what_to_do(checkout):
    code, output = checkout("cpu")
    assert code == 1 and "SWERL-E103 no Python 3.12" in output and "pyenv install 3.12" in output


def test_an_older_python_does_not_count(checkout):
    fake = checkout.tools / "python3.12"
    fake.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1;; esac\n')
    fake.chmod(0o755)
    if not ELSEWHERE:
        code, output = checkout("cpu")
        assert code == 1 and "SWERL-E103" in output
    code, output = checkout("tpu")
    assert code == 1 and "SWERL-E101" in output


def test_python_is_found_under_pyenv_and_uv_failure_is_named(checkout):
    place = checkout.root / ".pyenv" / "versions" / "3.12.9" / "bin"
    place.mkdir(parents=True)
    python = place / "python3.12"  # says it is 3.12, but cannot make an environment
    python.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 0;; *sys.executable*) echo "$0"; exit 0;; *venv*) exit 1;; esac\n')
    python.chmod(0o755)
    code, output = checkout("cpu")
    assert code == 1 and "SWERL-E104" in output and "python3.12-venv" in output


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("echo it is 3.13.1 >&2; exit 1", "it is 3.13.1"),
        ("echo No module named venv >&2; exit 1", "No module named venv"),
        (None, "No such file"),
    ],
)
def test_a_python_that_was_asked_for_is_that_or_none(checkout, script, how):
    """Another that would do is not taken in its place."""
    python = checkout.root / "python of mine"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    (checkout.tools / "python3.12").symlink_to(sys.executable)
    code, output = checkout("cpu", SWERL_PYTHON=str(python))
    assert code == 1 and f"SWERL-E109 SWERL_PYTHON={python} is no Python 3.12 that works" in output and how in output, output
    assert not (checkout.root / ".venv" / "train").exists()


@pytest.fixture
def installed(checkout):
    """A checkout whose set-up works: a uv that makes environments of nothing but an interpreter."""
    uv = checkout.tools / "uv"
    uv.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo "uv 0.13.9"; exit;; esac\n'
        'mkdir -p "$UV_PROJECT_ENVIRONMENT/bin" "$UV_PROJECT_ENVIRONMENT/lib/python3.12/site-packages"\n'
        f'ln -sf {sys.executable} "$UV_PROJECT_ENVIRONMENT/bin/python"\n'
        ': > "$UV_PROJECT_ENVIRONMENT/bin/swerl"; chmod +x "$UV_PROJECT_ENVIRONMENT/bin/swerl"\n'
    )
    uv.chmod(0o755)
    for name in ("ln", "apt-get"):
        (checkout.tools / name).symlink_to(shutil.which(name))
    (checkout.tools / "python3.12").symlink_to(sys.executable)
    code, output = checkout("cpu")
    assert code == 0, output
    return checkout


@pytest.fixture
def unwritable(installed):
    """The checkout read-only, by a mount of its own: root may write wherever the file system lets anybody."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = str(installed.root / ".venv")
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    yield installed
    subprocess.run(["umount", "-l", place], check=True)


def test_a_read_only_checkout_will_do_while_it_is_up_to_date(unwritable):
    assert unwritable("cpu") == (0, "environments are up to date (extra cpu)\n")
    code, output = unwritable("gpu")
    assert code == 1 and "SWERL-E110" in output and "Read-only file system" in output and ".venv/train is not what" in output


def test_an_interpreter_that_is_gone_is_no_environment(installed):
    """As one in another user's home, or one that pyenv has removed: made anew where that may be."""
    python = installed.root / ".venv" / "train" / "bin" / "python"
    python.unlink()
    python.symlink_to("/root/.pyenv/versions/none/bin/python")
    code, output = installed("cpu")
    assert code == 0 and "making .venv/train" in output and "making .venv/trials" not in output, output


def test_a_home_that_cannot_be_written_is_said_before_uv_is_asked(installed):
    (installed.root / ".venv" / "trials" / ".swerl-stamp").unlink()
    code, output = installed("cpu", HOME="/dev/null")
    assert code == 1 and "SWERL-E111 HOME=/dev/null cannot be written" in output, output
    assert installed("cpu", HOME="/dev/null", UV_CACHE_DIR=str(installed.root / "cache"))[0] == 0


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_program_removed_behind_apts_back_is_installed_again(installed, comes_back):
    (installed.tools / "bwrap").unlink()
    apt, log = installed.tools / "apt-get", installed.root / "apt.log"
    apt.unlink()
    brings = f'case "$*" in *--reinstall*bubblewrap*) ln -s {sys.executable} {installed.tools}/bwrap;; esac\n' if comes_back else ""
    apt.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{brings}')
    apt.chmod(0o755)
    code, output = installed("cpu")
    if os.geteuid() != 0:
        assert code == 1 and "SWERL-E108" in output
    elif comes_back:
        assert code == 0 and "up to date" in output, output
    else:
        assert code == 1 and "SWERL-E107 apt has installed, and this shell still does not find: bubblewrap" in output, output


def test_what_is_up_to_date_is_left_alone(checkout):
    """With stamps that fit, nothing is installed, whatever uv would say."""
    place = checkout.root / ".pyenv" / "versions" / "3.12.9" / "bin"
    place.mkdir(parents=True)
    python = place / "python3.12"
    python.write_text('#!/bin/sh\ncase "$*" in *-VV*) echo "Python 3.12.9";; esac\nexit 0\n')
    python.chmod(0o755)
    uv = checkout.tools / "uv"
    log = checkout.root / "uv.log"
    uv.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "uv 0.13.9"; exit;; python) exit 1;; esac\necho "$UV_PROJECT_ENVIRONMENT $*" >> "{log}"\n'
        'mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"; : > "$UV_PROJECT_ENVIRONMENT/bin/swerl"; chmod +x "$UV_PROJECT_ENVIRONMENT/bin/swerl"\n'
        f'ln -sf {python} "$UV_PROJECT_ENVIRONMENT/bin/python"\n'
    )
    uv.chmod(0o755)
    (checkout.tools / "ln").symlink_to(shutil.which("ln"))
    code, output = checkout("cpu")
    assert code == 0, output
    calls = log.read_text().splitlines()
    assert [Path(call.split()[0]).name for call in calls] == ["train", "trials"]
    assert all("sync --frozen --compile-bytecode" in call and "--extra dev" in call for call in calls)
    assert "--extra cpu" in calls[0] and "--extra trials" in calls[1]
    code, output = checkout("cpu")
    assert code == 0 and "up to date" in output and len(log.read_text().splitlines()) == 2
    code, output = checkout("gpu")
    assert code == 0 and "--extra gpu" in log.read_text().splitlines()[2] and len(log.read_text().splitlines()) == 3
    with (checkout.root / "uv.lock").open("a") as file:
        file.write("\n")
    assert checkout("gpu")[0] == 0 and len(log.read_text().splitlines()) == 5


def load_test_script():
    spec = importlib.util.spec_from_file_location("swerl_test_script", PROJECT_ROOT / "scripts" / "test.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path):
    """The test script over a small tree of its own."""
    module = load_test_script()
    module.ROOT = tmp_path
    marked = "import pytest\n\n@pytest.mark.trials\ndef test_a(): ...\n"
    for name, text in {"runs/test_a.py": "", "data/test_b.py": marked, "trials/test_c.py": "", "redteam/deep/test_d.py": marked}.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    (tmp_path / "tests" / "fixtures").mkdir()
    return module


def test_every_test_file_runs_in_exactly_one_place(script):
    found = {part.name: part for part in script.parts("all", ())}
    names = {part.name: sorted(path.name for path in part.paths) for part in found.values()}
    assert names == {"train": ["data", "runs"], "trials": ["redteam", "trials"], "trials-elsewhere": ["test_b.py"]}
    assert {part.name: part.marks for part in found.values()} == {"train": "(not trials)", "trials": "", "trials-elsewhere": "(trials)"}
    assert {part.environment for part in found.values()} == {"train", "trials"} and found["train"].environment == "train"


def test_a_place_or_a_level_narrows_the_choice(script):
    only = script.parts("fast", [script.ROOT / "tests" / "runs"])
    assert [(part.name, part.marks) for part in only] == [("train", "(not trials) and (not slow and not long)")]
    only = script.parts("default", [script.ROOT / "tests" / "redteam"])
    assert [(part.name, part.marks) for part in only] == [("trials", "not long")]


def test_the_script_counts_and_its_exit_code_follows(tmp_path):
    """The script over a tree with one passing, one failing and one skipped test; then over nothing."""
    for part in ("scripts", "tests/one", "tests/none"):
        (tmp_path / part).mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "scripts" / "test.py", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(PROJECT_ROOT / ".venv")
    test = tmp_path / "tests" / "one" / "test_one.py"
    test.write_text("import pytest\ndef test_a(): pass\ndef test_b(): assert False\ndef test_c(): pytest.skip('no')\n")

    def run(*words):
        command = [sys.executable, str(tmp_path / "scripts" / "test.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout.splitlines()[-1]

    assert run() == (1, "1 passed, 1 failed, 1 skipped")
    assert run("default", "test_a") == (0, "1 passed, 0 failed, 0 skipped")
    assert run("default", "no_such_word") == (1, "0 passed, 0 failed, 0 skipped")
    test.write_text("this does not parse")
    code, line = run()
    assert code == 1 and line == "0 passed, 1 failed, 0 skipped"
