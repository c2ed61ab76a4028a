"""What a step's groups are worth, and what the tail-killer says it saved."""

from dataclasses import replace

from trialkit import make_task, request_for

from swerl.record.events import EventLog, read_events
from swerl.record.model import TrialResult
from swerl.record.outcomes import Outcome
from swerl.trials.groups import Groups
from swerl.trials.tail import expected_rest_s


def test_groups_of_one_reward_are_counted(tmp_path):
    who = request_for(make_task(tmp_path)).identity
    good = TrialResult(who, "t", Outcome.COMPLETED, True, True, 1.0)
    lost = replace(good, outcome=Outcome.INFRA_FAILED, in_loss=False, graded=False, reward=None)
    groups = Groups(3, EventLog(tmp_path / "events.jsonl", "runner"))
    cases = [(1, [good, good, good]), (2, [good, replace(good, reward=0.0), lost]), (3, [good, lost, lost]), (4, [good, good, lost])]
    for step, results in cases:
        for result in results:
            groups.settled(step, result)
    assert groups.counts == {"groups": 4, "zero_variance": 2, "too_few": 1}
    told = [(e["step"], e["zero_variance"], e["in_loss"], e["mean"]) for e in read_events(tmp_path / "events.jsonl")]
    assert told == [(1, True, 3, 1.0), (2, False, 2, 0.5), (3, False, 1, 1.0), (4, True, 2, 1.0)]


def test_what_a_kill_saves_is_judged_by_the_trials_that_ran_longer():
    assert expected_rest_s(10.0, [4.0, 12.0, 18.0]) == 5.0
    assert expected_rest_s(10.0, [4.0]) is None
