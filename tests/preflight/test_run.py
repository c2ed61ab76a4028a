"""The whole preflight: no false alarm, its clocks, its choices, its forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from swerl.preflight import CHECKS, run_file
from swerl.preflight.check import Check, Fact, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.report import Report
from swerl.preflight.runner import run_checks, select, side_by_side, within

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.trials
def test_healthy_site_has_nothing_to_say(site):
    """The sandbox is started, the template is tried, the environments are compared: no finding, not even a note."""
    report = site.preflight()
    assert report.ok and not report.problems, report.render(verbose=True)
    assert report.verdict().startswith("SAFE TO RUN: yes (0 warnings")
    assert "8 x 8 = 64 trials a step" in report.render()


@pytest.mark.slow
@pytest.mark.train
def test_parser_reads_back_what_the_template_writes(site, site_module):
    """vLLM's own parser on a rendered call: the right one passes, the wrong one is named."""
    assert site.preflight(only=["SWERL-P110"]).ok
    site_module.write_policy(site.model, template=site_module.TAGS)
    assert site.preflight(only=["SWERL-P110"]).ids == {"SWERL-P110"}


@pytest.mark.slow
@pytest.mark.trials
def test_tasks_are_tried(site, site_module):
    """Oracle and no-op in real sandboxes: sound tasks pass, one that rewards doing nothing is named."""
    report = site.preflight(only=["SWERL-P411"])
    assert report.ok and "4 sound" in report.results[0].facts[0], report.render()
    script = site.train[0] / "tests" / "test.sh"
    script.write_text("#!/bin/bash\nmkdir -p /logs/verifier\necho 1 > /logs/verifier/reward.txt\n")
    site.index()
    report = site.preflight(only=["SWERL-P411"])
    assert report.ids == {"SWERL-P411"} and "train-0 is not sound: nop passes" in report.fatal[0].message


def test_nothing_is_written(site):
    """Not a byte below the site, whatever is checked."""

    def state() -> dict[str, tuple]:
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in site.root.rglob("*")}

    before = state()
    site.preflight()
    assert state() == before


def test_reference_profile_on_a_machine_without_gpus(tmp_path: Path):
    """config.yaml as it is shipped: the problems of this machine and of the placeholders, each by id."""
    env = {"PATH": f"{tmp_path}", "HOME": str(tmp_path)}
    report = run_file(PROJECT / "config.yaml", overrides={"experiment.runs_dir": str(tmp_path / "runs")}, env=env)
    assert not report.ok
    assert {"SWERL-C007", "SWERL-P601", "SWERL-P503", "SWERL-P851"} <= report.ids
    text = report.render()
    assert "64 x 8 = 512 trials a step" in text and "Run Configuration Summary" in text and "SAFE TO RUN: no" in text


def test_json_has_everything(site):
    data = json.loads(json.dumps(site.preflight({"training.max_response_length": 600}).as_dict()))
    assert data["ok"] is False and data["fatal"] >= 1 and data["summary"]["batch"].startswith("8 x 8 = 64")
    bad = next(r for r in data["results"] if r["id"] == "SWERL-P201")
    assert bad["status"] == "fatal" and bad["problems"][0]["anchor"] == "docs/troubleshooting.md#swerl-p201"
    assert {r["id"] for r in data["results"]} == {c.id for c in CHECKS if not c.slow}


def test_static_part_is_quick_and_asks_nobody(site):
    """No process is started, and its own time stays far below a second."""
    code = (
        "import subprocess, sys; from pathlib import Path; import swerl.preflight as p;"
        "subprocess.Popen = None;"
        "r = p.run_file(Path(sys.argv[1]), 'demo-cpu', dict(a.split('=', 1) for a in sys.argv[2:]), live=False);"
        "print(r.static_s, len(r.results), r.live_s)"
    )
    sets = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in site.sets.items()]
    done = subprocess.run([sys.executable, "-c", code, str(PROJECT / "config.yaml"), *sets], capture_output=True, text=True, check=True)
    static_s, number, live_s = (float(part) for part in done.stdout.split())
    assert number == sum(not c.live for c in CHECKS) and live_s < 0.1
    assert static_s < 2.0


class Sleeps(Check):
    id, family, title, asks, remedy, budget_s = "SWERL-P998", "test", "sleeps", "it ends", "wait", 0.3

    def __init__(self, release: threading.Event):
        self._release = release

    def run(self, ctx):
        self._release.wait()
        yield Fact("never said in time")


class Breaks(Check):
    id, family, title, asks, remedy = "SWERL-P997", "test", "breaks", "it works", "mend it"

    def run(self, ctx):
        yield self.found("something", severity="warning")
        raise ZeroDivisionError("a bug")


class Absent(Check):
    id, family, title, asks, remedy = "SWERL-P996", "test", "absent", "it applies", "nothing"

    def run(self, ctx):
        raise NotApplicable("not here")
        yield


def test_hung_and_broken_checks_hide_nothing():
    release = threading.Event()
    started = time.monotonic()
    hung, broken, absent = run_checks([Sleeps(release), Breaks(), Absent()], SimpleNamespace(patience=1.0, is_busy=False))
    assert time.monotonic() - started < 5
    release.set()
    assert hung.status == "warning" and "no answer within 0.3 s" in hung.problems[0].message
    assert "--patience 2; if it hangs again, sleeps is what to look at" in hung.problems[0].remedy
    assert broken.status == "fatal" and [p.severity for p in broken.problems] == ["warning", "fatal"]
    assert "ZeroDivisionError: a bug" in broken.problems[1].message
    assert absent.status == "not applicable" and absent.reason == "not here"
    assert Report((hung, broken)).ids == {"SWERL-P998", "SWERL-P997"}


class HangsForGood(Check):
    id, family, title, asks, remedy, budget_s, hung = "SWERL-P995", "test", "hangs", "it ends", "wait", 0.3, "fatal"

    def run(self, ctx):
        ctx.once("held", lambda: side_by_side(lambda _: time.sleep(120), ["a", "b"]))
        yield Fact("never")


def test_nothing_waits_for_a_probe_that_hangs_for_good():
    """A blocked thread, and what waits for its lock, hold up neither the report nor the end of the process."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from types import SimpleNamespace; import test_run as t;"
        "from swerl.preflight.runner import within;"
        "ctx = t.Context.__new__(t.Context); ctx.__dict__.update(patience=1.0, is_busy=False);"
        "ctx.__dict__.update(_guard=t.threading.Lock(), _locks={}, _values={});"
        "[result] = t.run_checks([t.HangsForGood()], ctx);"
        "print(result.status, within(0.3, lambda: ctx.once('held', dict), 'unknown'))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fatal unknown\n", done.stderr
    assert time.monotonic() - started < 30


def test_a_driver_that_never_answers_is_a_finding(site):
    """nvidia-smi that no signal ends, as in a driver that fell over: here its output is held open by a process that left the session."""
    site.program("nvidia-smi", f"setsid sleep 60 & echo $! >> {site.root}/held; wait")
    cuda = {"infrastructure.device": "cuda", "infrastructure.ngpus_per_node": 1}
    started = time.monotonic()
    try:
        report = site.preflight(cuda, skip=["environment", "model", "data", "sandbox", "SWERL-P713"], patience=0.1)
    finally:
        for pid in (site.root / "held").read_text().split():
            os.kill(int(pid), 9)
    assert time.monotonic() - started < 15
    hung = {p.id: p for p in report.problems if "hung" in p.message}
    assert hung["SWERL-P601"].severity == "fatal" and hung["SWERL-P602"].severity == "warning"
    assert "SAFE TO RUN: no" in report.render()


def test_within_hands_on_what_is_raised():
    assert within(5.0, lambda: 7, 0) == 7
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 / 0, 0)


def test_side_by_side_keeps_the_order_and_hands_on_errors():
    assert side_by_side(lambda name: name.upper(), "abcdefghijkl", most=3) == list("ABCDEFGHIJKL") and side_by_side(str, []) == []
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda name: 1 / 0, ["a"])


def test_select():
    def ids(**choice):
        return {c.id for c in select(CHECKS, **choice)}

    whole = ids()
    assert whole == {c.id for c in CHECKS if not c.slow} and ids(deep=True) == {c.id for c in CHECKS}
    assert ids(only=["SWERL-P110"]) == {"SWERL-P110"}, "a slow check that is named runs"
    assert ids(only=["batch"]) == {c.id for c in CHECKS if c.family == "batch"}
    assert ids(skip=["gpu", "SWERL-P701"]) == {c.id for c in CHECKS if c.family != "gpu" and c.id != "SWERL-P701" and not c.slow}
    assert ids(live=False) == {c.id for c in CHECKS if not c.live}
    assert ids(only=["p110", "Batch"]) == {"SWERL-P110"} | ids(only=["batch"])
    with pytest.raises(ValueError, match="no check or family is called 'bacth'; did you mean `batch`"):
        select(CHECKS, only=["bacth"])


def test_context_computes_once_for_all_threads(site):
    ctx, calls = site.context(), []

    def make() -> int:
        calls.append(1)
        time.sleep(0.05)
        return 7

    threads = [threading.Thread(target=lambda: calls.append(("got", ctx.once("x", make)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.count(1) == 1 and calls.count(("got", 7)) == 8


def test_program_that_hangs_is_ended_with_its_children(site, tmp_path: Path):
    site.program("slow", f"sleep 300 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(TimeoutError):
        site.context().ask(["slow"], timeout_s=1.0)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/cmdline").exists() or Path(f"/proc/{child}/cmdline").read_bytes() == b""
    assert site.context().ask(["no-such-program"], timeout_s=1.0).code is None


@pytest.mark.parametrize("profile", sorted(p.stem for p in (PROJECT / "profiles").glob("*.yaml")))
def test_no_false_alarm_on_a_shipped_profile(site, profile: str):
    """With a healthy policy and data on the hardware it names, a profile's own numbers give nothing fatal and no warning."""
    site.gpus(8)
    site.sets = {k: v for k, v in site.sets.items() if not k.startswith(("training.", "harbor_runtime."))}
    sets = {k: v if isinstance(v, str) else json.dumps(v) for k, v in site.sets.items()}
    report = run_file(
        PROJECT / "config.yaml",
        profile,
        {**sets, "credentials.wandb_mode": "offline"},
        skip=["environment", "host", "data", "SWERL-P106", "SWERL-P502", "SWERL-P503"],  # sandboxes are of the host that runs this
        env=site.env,
        host=site.host(),
    )
    assert not report.fatal and not report.warnings, report.render()


def test_a_busy_machine_is_not_taken_for_a_broken_one(site):
    """The same hung probe refuses the run on an idle machine, and warns on one with forty processes for each processor."""
    site.program("nvidia-smi", "sleep 60")
    on_gpus = {"infrastructure.device": "cuda", "infrastructure.ngpus_per_node": 1}
    for load, fatal in ((0.0, True), (40.0 * len(os.sched_getaffinity(0)), False)):
        site.proc(loadavg=f"{load} 1.00 1.00 1/100 1\n")
        config, problems = site.config(on_gpus)
        context = Context(config, problems=problems, env=site.env, host=site.host())
        context.patience = 0.05
        [result] = run_checks(select(CHECKS, only=["SWERL-P601"]), context)
        [problem] = result.problems
        assert (problem.severity == "fatal") == fatal, problem
        assert "hung" in problem.message if fatal else "--patience" in problem.remedy


def test_patience_grows_with_the_load_and_is_bounded(site):
    processors = len(os.sched_getaffinity(0))
    for load, expected in ((0.5 * processors, 1.0), (3.0 * processors, 3.0), (90.0 * processors, 8.0)):
        site.proc(loadavg=f"{load} 1.00 1.00 1/100 1\n")
        assert site.context().patience == expected
