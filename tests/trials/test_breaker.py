"""Budget and breaker."""

import pytest

from swerl.record.events import EventLog, read_events
from swerl.trials.breaker import Breaker, BreakerOpen


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
