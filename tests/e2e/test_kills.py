"""A real run on real parts, with each of its processes killed once: real verl and vLLM, Harbor trials in sandboxes, the gateway between.

What must hold: the run goes on by itself, whichever process died; steps are complete and counted once; no trial that finished under weights
that are still there runs again; nothing of the run is left behind.
"""

import collections
import os
import signal
import time
from pathlib import Path

import pytest

from .world import PROCESSES

pytestmark = [pytest.mark.slow]
STEPS = 3


def test_each_process_killed_once(run_of):
    run = run_of("kills", **{"training.total_steps": str(STEPS), "training.test_freq": str(STEPS)})
    run.start()

    run.await_event("trainer", "step.begin", step=1)
    run.await_event("runner", "trial.started", split="train")
    run.kill("gateway")
    run.await_event("trainer", "checkpoint.committed", step=1)

    run.await_event("trainer", "step.begin", step=2)
    run.kill("runner")
    run.await_event("trainer", "checkpoint.committed", step=2)

    run.await_event("trainer", "step.begin", step=3)
    run.await_event("runner", "trial.settled", step=3)
    run.kill("trainer")
    before = run.settled()
    assert run.wait() == 0, run.output()
    assert run.leftovers() == []

    rows = run.metrics()
    assert [row.step for row in rows] == list(range(STEPS + 1))
    assert [row.lineage for row in rows] == ["L1", "L1", "L1", "L2"]
    for row in rows[1:]:
        assert row.data["training/rollout_actor_probs_pearson_corr"] >= 0.999
        assert row.data["actor/lr"] == pytest.approx(5e-4)
    assert rows[-1].data["swerl/val/coverage"] == 1.0

    starts = [e for e in run.events("trainer") if e["kind"] == "trainer.start"]
    assert [(e["restored_step"], e["restored_version"]) for e in starts] == [(0, "init:0"), (2, "L1:2")]

    # finished under the restored weights: reused, never run again
    finished = [r for r in before if r["identity"]["version"] == "L1:2" and r["outcome"] == "completed"]
    assert finished, "the trainer was killed before a trial of its step had settled; the test has lost its point"
    settled = run.settled()
    graded = collections.Counter(tuple(r["identity"].values()) for r in settled if r["graded"])
    assert set(graded.values()) == {1}
    reused = [r for r in settled if tuple(r["identity"].values()) in {tuple(f["identity"].values()) for f in finished}]
    assert len(reused) == len(finished)

    # every trial of every step has a verdict: kills cost time, not trials
    per_step = collections.Counter(r["identity"]["version"] for r in settled if r["identity"]["split"] == "train" and r["graded"])
    assert per_step == {"init:0": 8, "L1:1": 8, "L1:2": 8}
    versions = collections.Counter(r["identity"]["version"] for r in settled if r["identity"]["split"] == "val" and r["graded"])
    assert versions == {"init:0": 4, "L2:3": 4}


@pytest.mark.long
def test_every_process_of_the_tree_killed_in_one_run(run_of):
    """Each while trials of another step are sampled; the run goes on by itself every time, and every step is there once."""
    steps = len(PROCESSES) + 1
    run = run_of("tree-of-processes", **{"training.total_steps": str(steps), "training.test_freq": "-1", "harbor_runtime.num_workers": "2"})
    run.start()
    took = {}
    for step, victim in enumerate(PROCESSES, 1):
        run.await_event("trainer", "step.begin", step=step)
        run.await_event("runner", "trial.started", step=step)
        killed = time.time()
        os.kill(run.descendant(victim), signal.SIGKILL)
        run.await_event("trainer", "checkpoint.committed", step=step)
        took[victim] = time.time() - killed
        print(f"{victim}: {took[victim]:.0f} s", flush=True)
    assert run.wait() == 0, run.output()
    assert run.leftovers() == []
    assert [row.step for row in run.metrics() if row.step] == list(range(1, steps + 1))
    per_identity = collections.Counter(tuple(r["identity"].values()) for r in run.settled() if r["graded"])
    assert set(per_identity.values()) == {1}


@pytest.mark.long
def test_a_killed_engine_is_seen_and_replaced_and_nothing_is_judged_by_it(run_of, monkeypatch):
    """vLLM's own process, while agents sample that give up after a few tries."""
    agents = str(Path(__file__).resolve().parents[1] / "trials")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in (agents, os.environ.get("PYTHONPATH")) if path))
    run = run_of(
        "engine",
        **{"training.total_steps": "2", "training.test_freq": "-1", "harbor_agent.agent_import_path": "impatient:Patient"},
    )
    run.start()
    run.await_event("trainer", "step.begin", step=2)
    run.await_event("runner", "trial.started", step=2)
    killed = time.time()
    os.kill(run.descendant("VLLM::EngineCore"), signal.SIGKILL)
    died = run.await_event("bridge", "engine.died")
    assert died["time"] - killed < 10
    assert run.await_event("supervisor", "alarm.raised", id="SWERL-W505")["time"] - killed < 15
    assert run.wait() == 0, run.output()
    assert run.leftovers() == []
    assert [row.step for row in run.metrics() if row.step] == [1, 2]
    starts = [(e["restored_step"], e["restored_version"]) for e in run.events("trainer") if e["kind"] == "trainer.start"]
    assert starts == [(0, "init:0"), (1, "L1:1")]
    settled = [r for r in run.settled() if r["identity"]["split"] == "train"]
    judged = collections.Counter(r["identity"]["version"] for r in settled if r["graded"])
    assert judged == {"init:0": 8, "L1:1": 8}
    assert not [r for r in settled if r["graded"] and r["outcome"] == "agent_error"], "the policy is not to blame for its engine"
