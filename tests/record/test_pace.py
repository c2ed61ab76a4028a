"""One pace and one time left, whoever shows it."""

from swerl.record.pace import left_s, recent_step_s, validation_s, validations_due


def test_the_pace_is_that_of_the_newest_steps():
    assert recent_step_s({}) is None and recent_step_s({0: 99.0}) is None
    assert recent_step_s({0: 99.0, 2: 4.0, 1: 2.0}) == 3.0
    assert recent_step_s({step: float(step) for step in range(1, 21)}) == 15.5


def test_validations_come_every_few_steps_and_at_the_end():
    assert [validations_due(step, 12, 5) for step in (0, 4, 5, 10, 11, 12)] == [3, 3, 2, 1, 1, 0]
    assert validations_due(0, 12, 0) == validations_due(0, 12, -1) == 0


def test_the_newest_validation_that_is_over_tells_what_one_takes():
    events = [{"kind": f"validation.{kind}", "time": time} for kind, time in (("begin", 1.0), ("end", 5.0), ("begin", 9.0))]
    assert validation_s(events) == 4.0 and validation_s(events[:1]) is None
    assert validation_s([*events, {"kind": "validation.end", "time": 15.0}]) == 6.0


def test_the_time_left_is_not_said_before_all_of_it_is_known():
    assert left_s(3, None, 2.0, 5, 1.0) is left_s(3, 12, None, 5, 1.0) is left_s(3, 12, 2.0, 5, None) is None
    assert left_s(3, 12, 2.0, 5, 10.0) == 9 * 2.0 + 3 * 10.0
    assert left_s(3, 12, 2.0, 0, None) == 18.0 and left_s(12, 12, 2.0, 5, 10.0) == 0.0
