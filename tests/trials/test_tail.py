"""The tail-killer: the choice of victims as a property, and the timer on a small step."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from swerl.record.events import EventLog, read_events
from swerl.record.model import Identity, TrialResult
from swerl.record.outcomes import Outcome
from swerl.trials.settings import Tail
from swerl.trials.tail import GROUP_MINIMUM, Group, TailKiller, victims

groups = st.lists(
    st.builds(
        Group,
        rewards=st.lists(st.sampled_from([0.0, 1.0]), max_size=8).map(tuple),
        running=st.dictionaries(st.uuids().map(str), st.floats(0, 1e4), max_size=8),
    ),
    max_size=8,
)


@given(groups, st.booleans())
def test_every_group_keeps_its_chance_of_two_graded(some, everything):
    chosen = set(victims(some, everything))
    for group in some:
        left = len(group.running.keys() - chosen)
        assert len(group.rewards) + left >= min(GROUP_MINIMUM, len(group.rewards) + len(group.running))
        if not everything and not group.decided:
            assert not group.running.keys() & chosen
        if everything and len(group.rewards) >= GROUP_MINIMUM:
            assert group.running.keys() <= chosen


def test_those_that_ran_longest_are_spared():
    assert set(victims([Group((), {"a": 1.0, "b": 9.0, "c": 5.0})], everything=True)) == {"a"}
    assert victims([Group((0.0, 0.0), {"a": 1.0})], everything=False) == []
    assert victims([Group((0.0, 1.0), {"a": 1.0})], everything=False) == ["a"]


def settled(key, reward):
    return TrialResult(Identity("train", "g", 0, "v"), key, Outcome.COMPLETED, True, True, reward)


def test_the_timer_cuts_decided_groups_first_and_records_it(tmp_path):
    async def main():
        ended = []
        events = EventLog(tmp_path / "events.jsonl", "runner")
        tail = TailKiller(Tail(0.5, 0.05, 4), 8, lambda key, by: ended.append((key, by)), events)
        for group in ("decided", "undecided"):
            for number in range(4):
                tail.asked(7, f"{group}{number}", group)
                tail.running(7, f"{group}{number}")
        for key, reward in (("decided0", 0.0), ("decided1", 1.0), ("undecided0", 0.0)):
            tail.settled(7, key, settled(key, reward))
        await asyncio.sleep(0.1)
        assert ended == []  # the target is four of eight
        tail.settled(7, "undecided1", settled("undecided1", 0.0))
        await asyncio.sleep(0.08)
        assert {key for key, _ in ended} == {"decided2", "decided3"}
        await asyncio.sleep(0.06)
        assert {key for key, _ in ended} == {"decided2", "decided3", "undecided2", "undecided3"}
        assert {by for _, by in ended} == {Outcome.TAIL_KILLED}
        tail.close()
        events.close()

    asyncio.run(main())
    kinds = [event["kind"] for event in read_events(tmp_path / "events.jsonl")]
    assert kinds.count("tail.killed") == 4 and "tail.cut" in kinds


def test_off_by_default_and_for_small_steps(tmp_path):
    events = EventLog(tmp_path / "events.jsonl", "runner")
    assert not TailKiller(Tail(), 512, lambda *_: None, events).on
    assert not TailKiller(Tail(0.95, 1, 32), 31, lambda *_: None, events).on
    assert TailKiller(Tail(0.95, 1, 32), 32, lambda *_: None, events).on
