"""The outcome table: every row, every exception, and what must never happen whatever an attempt leaves."""

import pytest
from harbor.models.trial.error_policy import ERROR_POLICIES
from hypothesis import given
from hypothesis import strategies as st

from swerl.record.outcomes import ENDED_BY, FORFEITS, MEANING, Evidence, Outcome, RewardMissing, classify, judge

NAMES = sorted({name for names in ENDED_BY.values() for name in names} | set(ERROR_POLICIES) | {"SomethingNew"})
evidence = st.builds(
    Evidence,
    exception=st.none() | st.sampled_from(NAMES),
    rewards=st.none() | st.fixed_dictionaries({"reward": st.sampled_from([0.0, 0.5, 1.0])}),
    hit_max_turns=st.booleans(),
    context_overflow=st.booleans(),
    ended_by=st.none() | st.sampled_from([Outcome.TAIL_KILLED, Outcome.CANCELLED, Outcome.AGENT_TIMEOUT]),
    grading_disabled=st.booleans(),
)


def test_every_outcome_has_one_meaning():
    assert set(MEANING) == set(Outcome)
    assert {outcome for outcome in Outcome if MEANING[outcome].retried} == {
        Outcome.VERIFIER_TIMEOUT,
        Outcome.ENV_FAILED,
        Outcome.INFRA_FAILED,
    }


def test_an_exception_is_placed_once():
    names = [name for group in ENDED_BY.values() for name in group]
    assert len(names) == len(set(names))


@given(evidence, st.sampled_from(["keep", "drop"]), st.sampled_from(["keep", "drop"]))
def test_a_reward_exists_exactly_when_graded(given_evidence, overlong, timeout):
    judgement = judge(given_evidence, "reward", overlong, timeout)
    meaning = MEANING[judgement.outcome]
    assert (judgement.reward is not None) == judgement.graded
    assert not judgement.in_loss or judgement.graded
    if meaning.verdict == "no":
        assert not judgement.graded  # a failure of the infrastructure is never a reward of 0
    if given_evidence.ended_by in (Outcome.TAIL_KILLED, Outcome.CANCELLED):
        assert judgement.outcome is given_evidence.ended_by and not judgement.in_loss


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        (Evidence(rewards={"reward": 1.0}), Outcome.COMPLETED),
        (Evidence(rewards={"reward": 1.0}, hit_max_turns=True), Outcome.MAX_TURNS),
        (Evidence(rewards={"reward": 0.0}, context_overflow=True), Outcome.CONTEXT_OVERFLOW),
        (Evidence("ContextWindowExceededError", {"reward": 0.0}), Outcome.CONTEXT_OVERFLOW),
        (Evidence("AgentTimeoutError", {"reward": 1.0}), Outcome.AGENT_TIMEOUT),
        (Evidence("NonZeroAgentExitCodeError", {"reward": 1.0}), Outcome.AGENT_ERROR),
        (Evidence("SandboxExhausted"), Outcome.AGENT_ERROR),
        (Evidence("SandboxExhausted", before_agent=True), Outcome.ENV_FAILED),
        (Evidence("NonZeroAgentExitCodeError", before_agent=True), Outcome.ENV_FAILED),
        (Evidence("VerifierTimeoutError"), Outcome.VERIFIER_TIMEOUT),
        (Evidence("RewardFileNotFoundError"), Outcome.ENV_FAILED),
        (Evidence("EnvironmentStartTimeoutError"), Outcome.ENV_FAILED),
        (Evidence("InternalServerError", {"reward": 0.0}), Outcome.INFRA_FAILED),
        (Evidence("SomethingNew", {"reward": 0.0}), Outcome.INFRA_FAILED),
        (Evidence("CancelledError"), Outcome.INFRA_FAILED),
        (Evidence(), Outcome.INFRA_FAILED),
        (Evidence(grading_disabled=True), Outcome.COMPLETED),
        (Evidence("CancelledError", ended_by=Outcome.TAIL_KILLED), Outcome.TAIL_KILLED),
    ],
)
def test_classification(left, outcome):
    assert classify(left) is outcome


def test_overlong_and_timeout_follow_the_settings():
    overlong, late = Evidence(rewards={"reward": 1.0}, context_overflow=True), Evidence("AgentTimeoutError", {"reward": 1.0})
    assert judge(overlong, "reward", "keep", "drop").in_loss and not judge(overlong, "reward", "drop", "drop").in_loss
    assert not judge(late, "reward", "keep", "drop").in_loss and judge(late, "reward", "keep", "keep").in_loss
    assert judge(late, "reward", "keep", "drop").reward == 1.0


def test_an_agent_that_ruins_its_sandbox_gets_nothing():
    for name in FORFEITS:
        judgement = judge(Evidence(name), "score", "keep", "drop")
        assert (judgement.outcome, judgement.reward, judgement.in_loss) == (Outcome.AGENT_ERROR, 0.0, True)


def test_the_named_number_must_be_there():
    assert judge(Evidence(rewards={"a": 1.0, "b": 0.25}), "b", "keep", "drop").reward == 0.25
    with pytest.raises(RewardMissing):
        judge(Evidence(rewards={"a": 1.0}), "b", "keep", "drop")
