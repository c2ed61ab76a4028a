"""Budget, breaker and quarantine of tasks and hosts."""

import pytest

from swerl.runs.events import EventLog, read_events
from swerl.trials.breaker import Breaker, BreakerOpen
from swerl.trials.quarantine import AFTER, Quarantine


@pytest.fixture
def events(tmp_path):
    return EventLog(tmp_path / "events.jsonl", "runner")


def test_failures_of_one_kind_in_a_row_open_it_with_the_first_cause(events):
    breaker = Breaker(3, 1.0, 64, events)
    for number in range(3):
        breaker.check()
        breaker.failed("SandboxStartFailed", f"trial{number}", f"reason {number}")
    with pytest.raises(BreakerOpen, match=r"SWERL-T041.*trial0: reason 0"):
        breaker.check()
    assert [event["kind"] for event in read_events(events.path)] == ["breaker.open"]


def test_a_good_attempt_or_another_kind_starts_the_count_anew(events):
    breaker = Breaker(2, 1.0, 64, events)
    breaker.failed("X", "t1", "")
    breaker.good()
    breaker.failed("X", "t2", "")
    breaker.failed("Y", "t3", "")
    breaker.check()
    breaker.failed("Y", "t4", "")
    with pytest.raises(BreakerOpen):
        breaker.check()


def test_the_budget_of_a_step(events):
    breaker = Breaker(100, 0.25, 8, events)
    breaker.asked("train", 1)
    assert breaker.allowance("train", 1) == 2
    assert breaker.may_retry("train", 1, "e") and breaker.may_retry("train", 1, "e")
    assert breaker.may_retry("train", 2, "e")
    breaker.check()
    assert not breaker.may_retry("train", 1, "the last one")
    with pytest.raises(BreakerOpen, match=r"SWERL-T040.*the last one"):
        breaker.check()


def test_validation_counts_what_was_asked(events):
    breaker = Breaker(100, 0.5, 64, events)
    for _ in range(4):
        breaker.asked("val", 0)
    assert breaker.allowance("val", 0) == 2


def test_a_task_that_only_fails_is_set_aside(events):
    kept = Quarantine(events)
    kept.good("fine", None)
    for number in range(AFTER):
        assert not kept.holds("bad")
        kept.failed("bad", None, f"no such file {number}")
        kept.failed("fine", None, "")
    assert kept.holds("bad") and not kept.holds("fine")
    assert kept.tasks == {"bad": "no such file 0"} and kept.hosts == {}
    assert [(event["task"], event["error"]) for event in read_events(events.path)] == [("bad", "no such file 0")]


def test_a_host_on_which_everything_fails_is_set_aside_while_another_works(events):
    kept = Quarantine(events)
    for task in ("a", "b", "c"):
        kept.good(task, "n1")
        kept.good(task, "n2")
    for number in range(AFTER - 1):
        kept.failed("abc"[number], "n1", f"disk {number}")
    kept.good("a", "n1")  # the row is broken
    for number in range(AFTER):
        assert kept.hosts == {}
        kept.failed("abc"[number % 3], "n1", f"disk {number}")
    assert kept.hosts == {"n1": "disk 0"} and kept.tasks == {}
    for number in range(2 * AFTER):  # the last host that works is never given up
        kept.failed("abc"[number % 3], "n2", "too")
    assert list(kept.hosts) == ["n1"]


def test_one_bad_task_does_not_condemn_its_host(events):
    kept = Quarantine(events)
    kept.good("fine", "n2")
    for _ in range(AFTER):
        kept.failed("bad", "n1", "its own fault")
    assert kept.hosts == {} and kept.holds("bad")
