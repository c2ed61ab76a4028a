"""What of an agent's work reaches the grader."""

import pytest

from swerl.trials.sandboxes.tree import Received
from swerl.trials.screening import keep_removed, screen


def screened(*written, known=(), gone=(), refused=(), content=lambda name: b""):
    drop, findings = screen(Received(tuple(written), tuple(known), tuple(gone), tuple(refused)), content)
    return drop, {finding.path: finding.kind for finding in findings}


@pytest.mark.parametrize(
    "name", ["calc.py", "pkg/sub/mod.py", "README.md", "pkg/types.py", "data/conf.json", "setup.cfg", "src/conftest_helper.py"]
)
def test_ordinary_work_passes(name):
    assert screened(name) == ([], {})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sitecustomize.py", "python-startup"),
        ("pkg/usercustomize.py", "python-startup"),
        ("conftest.py", "test-configuration"),
        ("tests/conftest.py", "test-configuration"),
        ("pytest.ini", "test-configuration"),
        ("tests/test_calc.py", "test-file"),
        ("tests/helpers.py", "test-file"),
        ("pkg/tests/__init__.py", "test-file"),
        (".pytest.toml", "test-configuration"),
        ("evil-1.dist-info/entry_points.txt", "package-metadata"),
        ("src/evil.egg-info/entry_points.txt", "package-metadata"),
        ("unittest.py", "shadows-standard-library"),
        ("json", "shadows-standard-library"),
        ("pytest.py", "shadows-standard-library"),
        ("x.pth", "compiled-or-path-file"),
        ("__pycache__/calc.cpython-311.pyc", "compiled"),
    ],
)
def test_what_speaks_to_the_grader_is_dropped_and_named(name, kind):
    assert screened(name) == ([name], {name: kind})


def test_a_package_under_a_library_name_goes_whole():
    drop, _ = screened("unittest", "unittest/__init__.py")
    assert "unittest" in drop


def test_a_file_of_the_task_may_have_any_name():
    assert screened("queue.py", known=["queue.py"])[0] == []


def test_pytest_settings_inside_a_shared_file():
    assert screened("pyproject.toml", content=lambda _: b"[tool.pytest.ini_options]\naddopts = '-p evil'\n")[0] == ["pyproject.toml"]
    assert screened("pyproject.toml", content=lambda _: b"[project]\nname = 'x'\n")[0] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[ tool . pytest . ini_options ]\naddopts = '-p evil'\n"),
        ("pyproject.toml", "['tool'.\"pytest\".ini_options]\naddopts = '-p evil'\n"),
        ("pyproject.toml", "tool.pytest.ini_options.addopts = '-p evil'\n"),
        ("pyproject.toml", "tool = {pytest = {ini_options = {addopts = '-p evil'}}}\n"),
        ("pyproject.toml", '["to\\u006fl".pytest]\nx = 1\n'),
        ("setup.cfg", "[metadata]\rname = x\r[tool:pytest]\raddopts = -p evil\r"),
        ("setup.cfg", "[metadata]\x0b[tool:pytest]\n"),
    ],
)
def test_pytest_settings_are_found_as_their_reader_finds_them(name, text):
    assert screened(name, content=lambda _: text.encode())[0] == [name]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("os.path.exists('/tests/test_calc.py')", True),
        ("open('/logs/verifier/reward.txt')", True),
        ("'a/tests/b'", False),
        ("/tests_of", False),
    ],
)
def test_source_that_names_the_graders_directories_is_named(text, named):
    assert screened("calc.py", content=lambda _: text.encode()) == ([], {"calc.py": "names-grader"} if named else {})


def test_links_and_removed_tests_are_findings():
    assert screened(refused=["out -> /etc"], gone=["test_a.py", "b.py"])[1] == {"out -> /etc": "link-outside", "test_a.py": "test-removed"}
    assert keep_removed(["test_a.py", "b.py", "conftest.py"]) == ["b.py"]
