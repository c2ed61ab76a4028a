"""Rows hold exactly what the recording says, cut to the configured lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.trainer.rows import RowLimits, rows_of


def path(prompt, turns, main=True):
    """``turns``: list of (context tokens, sampled tokens) after the prompt; sampled tokens get log-probability -token and version 3."""
    ids, mask, logprobs, versions = [], [], [], []
    for context, sampled in turns:
        ids += [*context, *sampled]
        mask += [0] * len(context) + [1] * len(sampled)
        logprobs += [0.0] * len(context) + [-float(t) for t in sampled]
        versions += [-1] * len(context) + [3] * len(sampled)
    return {
        "main": main,
        "prompt_ids": list(prompt),
        "response_ids": ids,
        "response_mask": mask,
        "response_logprobs": logprobs,
        "versions": versions,
        "turns": len(turns),
    }


tokens = st.lists(st.integers(1, 99), max_size=6)
conversations = st.builds(path, st.lists(st.integers(1, 99), min_size=1, max_size=9), st.lists(st.tuples(tokens, tokens), max_size=5))


@given(conversations, st.integers(1, 12), st.integers(1, 40))
def test_a_row_is_a_prefix_with_every_trained_token_scored(recorded, max_prompt, max_response):
    rows = rows_of({"paths": [recorded]}, RowLimits(max_prompt, max_response))
    fits = len(recorded["prompt_ids"]) <= max_prompt and any(recorded["response_mask"][:max_response])
    assert len(rows) == int(fits)
    for row in rows:
        assert row.prompt_ids == recorded["prompt_ids"]
        assert row.response_ids == recorded["response_ids"][:max_response]
        assert all(lp == -t for t, m, lp in zip(row.response_ids, row.mask, row.logprobs, strict=True) if m)
        assert (row.first_version, row.last_version) == (3, 3)


def test_overlong_drop_makes_the_session_absent():
    long = path([1], [([], [5] * 10)])
    assert rows_of({"paths": [long]}, RowLimits(4, 6, overlong="keep"))[0].response_ids == [5] * 6
    assert rows_of({"paths": [long]}, RowLimits(4, 6, overlong="drop")) == []


def test_the_main_path_is_last_and_alone_by_default():
    side, main = path([1], [([], [7])], main=False), path([1], [([], [8])])
    assert [r.response_ids for r in rows_of({"paths": [side, main]}, RowLimits(4, 9))] == [[8]]
    assert [r.response_ids for r in rows_of({"paths": [side, main]}, RowLimits(4, 9, paths="all"))] == [[7], [8]]


def test_a_session_whose_main_path_has_nothing_to_train_is_absent():
    side, silent = path([1], [([], [7])], main=False), path([1], [([4], [])])
    assert rows_of({"paths": [side, silent]}, RowLimits(4, 9, paths="all")) == []
    assert rows_of({"paths": []}, RowLimits(4, 9)) == []


def test_a_broken_recording_is_not_trained():
    bad = path([1], [([], [7, 8])])
    bad["versions"][0] = -1
    with pytest.raises(AssertionError, match="version"):
        rows_of({"paths": [bad]}, RowLimits(4, 9))
