"""Faults that only a running run shows: J12, J13, J17, J29, J50. Planted in the events and metrics that its processes write."""

from __future__ import annotations


def test_j12_engine_that_fails_to_start(stream):
    """The trainer was started; its engine never says that it is ready."""
    stream.emit("trainer", "trainer.start", restored_step=0)
    stream.pass_time(61)
    assert stream.all_ids() == {"SWERL-W503"} and stream.raised[0].action == "stop"


def test_j13_gpus_idle_while_sandboxes_are_stuck(stream):
    """Trials were started and none settles; the cards do nothing. First the idle cards are noted, then the run is ended."""
    stream.boot(replicas=2)
    stream.begin()
    for sample in range(8):
        stream.trial(1, sample, settle=False)
    idle = [{"busy_percent": 0, "memory_mb": 70000, "memory_total_mb": 81559}] * 8
    stream.pass_time(20, gpus=idle)
    assert stream.all_ids() == {"SWERL-W303"}
    stream.pass_time(stream.terms.watch.no_trial_min, gpus=idle)
    assert stream.all_ids() == {"SWERL-W303", "SWERL-W501"} and stream.raised[-1].action == "stop"


def test_j17_validation_that_hangs_without_a_traceback(stream):
    """The event loop that would run the trials waits for itself: the validation began, and no trial is started."""
    stream.boot(replicas=2)
    stream.emit("trainer", "validation.begin", step=0)
    stream.pass_time(16, runner={"answers": True, "running": 0, "queued": 0})
    assert stream.all_ids() == {"SWERL-W502"} and "validation" in stream.raised[0].message


def test_j29_policy_that_stops_calling_tools(stream):
    """Turns fall to one; the run is ended after its step, with a checkpoint."""
    stream.boot(replicas=2)
    for turns in (14.0, 9.0, 3.0, 1.1, 1.0):
        stream.trained(**{"num_turns/mean": turns})
    assert stream.all_ids() == {"SWERL-W108"} and stream.raised[0].action == "pause"


def test_j50_prompts_cut_by_a_client_that_does_not_know_the_window(stream):
    """Trials have fourteen turns each, and a turn or two on the path that the gateway recorded: what
    ``tests/gateway/test_broken_clients.py::test_a_client_that_cuts_its_history`` does to a real gateway."""
    stream.boot(replicas=2)
    for on_path in (13.8, 1.1, 1.0):
        stream.trained(turns=14, **{"num_turns/mean": on_path})
    assert stream.all_ids() == {"SWERL-W109"}, "and nobody says that the policy stopped using its tools"
    assert "a trial has 14.0 turns, and 1.0 of them" in stream.raised[0].message and "window" in stream.raised[0].remedy
