"""The journal: what was written is read back, whatever a killed writer left behind."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.errors import SwerlError
from swerl.record.model import Identity, Timing, TrialResult
from swerl.record.outcomes import Outcome
from swerl.record.trial_journal import Journal, read


def result(sample=0, outcome=Outcome.COMPLETED, reward=1.0, attempts=1):
    graded = reward is not None
    return TrialResult(
        Identity("train", "sha256:x", sample, "a:1"), f"t{sample}", outcome, graded, graded, reward, {"reward": reward} if graded else {},
        session="s", attempts=attempts, timing=Timing(total_s=1.5), turns=3, info={"step": 1},
    )  # fmt: skip


def test_results_survive_a_restart(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin(result().identity, lambda n: f"name-{n}")
    journal.settle(result())
    journal.close()
    again = Journal(tmp_path / "journal.jsonl")
    assert again.settled[result().identity.key] == result()
    assert again.begin(result().identity, lambda n: f"name-{n}") == (2, "name-2")
    again.close()


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=2000))
def test_a_kill_at_any_byte_loses_at_most_the_last_line(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for sample in range(3):
        journal.settle(result(sample))
    journal.close()
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n") + (data[cut : cut + 1] == b"\n")  # only its line end is missing: the line is whole
    again = Journal(path)
    assert len(again.settled) == whole
    again.settle(result(9))
    again.close()
    assert [line["result"]["identity"]["sample"] for line in read(path)] == [*range(whole), 9]
    assert Journal(path).settled[result(9).identity.key].reward == 1.0


def test_what_the_infrastructure_broke_is_run_again_after_a_restart(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.settle(result(0, Outcome.INFRA_FAILED, None))
    journal.settle(result(1, Outcome.TAIL_KILLED, None))
    journal.close()
    again = Journal(path)
    assert [who.split("|")[2] for who in again.settled] == ["1"]
    again.settle(result(0))
    again.close()
    assert Journal(path).settled[result(0).identity.key].outcome is Outcome.COMPLETED


def test_two_runners_cannot_share_it(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(SwerlError, match="SWERL-T002"):
        Journal(tmp_path / "journal.jsonl")
    journal.close()
    Journal(tmp_path / "journal.jsonl").close()


def test_a_line_is_json_that_other_rooms_can_read(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.settle(result())
    journal.close()
    line = orjson.loads((tmp_path / "journal.jsonl").read_bytes())
    assert line["kind"] == "settled" and line["result"]["outcome"] == "completed" and line["result"]["timing"]["total_s"] == 1.5
