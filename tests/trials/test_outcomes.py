"""The outcome table: every row, every exception, and what must never happen whatever an attempt leaves."""

import pytest
from harbor.models.trial.error_policy import ERROR_POLICIES
from hypothesis import given
from hypothesis import strategies as st

from swerl.record.outcomes import IN_TURN, MEANING, OURS, OUT_OF_TURN, Evidence, Outcome, RewardMissing, classify, judge

PLACED = [name for table in (IN_TURN, OUT_OF_TURN) for names in table.values() for name in names]
NAMES = sorted({*PLACED, *OURS, *ERROR_POLICIES, "SomethingNew", "SandboxExhausted", "KeyError"})
REWARD = {"reward": 1.0}
evidence = st.builds(
    Evidence,
    exception=st.none() | st.sampled_from(NAMES),
    rewards=st.none() | st.fixed_dictionaries({"reward": st.sampled_from([0.0, 0.5, 1.0])}),
    hit_max_turns=st.booleans(),
    context_overflow=st.booleans(),
    ended_by=st.none() | st.sampled_from([Outcome.TAIL_KILLED, Outcome.CANCELLED, Outcome.AGENT_TIMEOUT]),
    grading_disabled=st.booleans(),
    unanswered=st.booleans(),
    phase=st.sampled_from(["setup", "agent", "grading"]),
    spoke=st.booleans(),
)


def test_every_outcome_has_one_meaning():
    assert set(MEANING) == set(Outcome)
    assert {outcome for outcome in Outcome if MEANING[outcome].retried} == {
        Outcome.VERIFIER_TIMEOUT,
        Outcome.ENV_FAILED,
        Outcome.INFRA_FAILED,
    }


def test_an_exception_is_placed_once():
    for table in (IN_TURN, OUT_OF_TURN):
        placed = [name for names in (*table.values(), OURS) for name in names]
        assert len(placed) == len(set(placed))


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


@given(evidence, st.sampled_from(["keep", "drop"]), st.sampled_from(["keep", "drop"]))
def test_an_agent_is_absent_only_by_our_fault(given_evidence, overlong, timeout):
    """Once a policy has spoken, whatever breaks in its turn is its own, unless something outside of its sandbox says that it was ours."""
    judgement = judge(given_evidence, "reward", overlong, timeout)
    hers = given_evidence.phase == "agent" and given_evidence.spoke and given_evidence.exception not in {None, *OURS}
    if hers and not given_evidence.unanswered and given_evidence.ended_by is None and not given_evidence.grading_disabled:
        assert MEANING[judgement.outcome].against in ("nobody", "agent") and not MEANING[judgement.outcome].retried
        assert judgement.graded or judgement.outcome is not Outcome.AGENT_ERROR
        assert judgement.reward == (given_evidence.rewards or {"reward": 0.0 if judgement.graded else None})["reward"]


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        (Evidence(rewards={"reward": 1.0}), Outcome.COMPLETED),
        (Evidence(rewards={"reward": 1.0}, hit_max_turns=True), Outcome.MAX_TURNS),
        (Evidence(rewards={"reward": 0.0}, context_overflow=True), Outcome.CONTEXT_OVERFLOW),
        (Evidence("ContextWindowExceededError", {"reward": 0.0}, phase="agent"), Outcome.CONTEXT_OVERFLOW),
        (Evidence("AgentTimeoutError", REWARD, phase="agent"), Outcome.AGENT_TIMEOUT),
        (Evidence("NonZeroAgentExitCodeError", REWARD, phase="agent"), Outcome.AGENT_ERROR),
        (Evidence("NonZeroAgentExitCodeError", REWARD, phase="agent", spoke=False), Outcome.AGENT_ERROR),
        (Evidence("SomethingNew", REWARD, phase="agent", spoke=False), Outcome.INFRA_FAILED),  # no policy has had a part in it
        (Evidence("ApiRateLimitError", REWARD, phase="agent"), Outcome.AGENT_ERROR),  # words that it printed
        (Evidence("InternalServerError", REWARD, phase="agent"), Outcome.AGENT_ERROR),
        (Evidence("InternalServerError", REWARD, phase="agent", unanswered=True), Outcome.INFRA_FAILED),  # the gateway says so
        (Evidence("SandboxDied", phase="agent"), Outcome.AGENT_ERROR),
        (Evidence("SandboxKilled", phase="agent"), Outcome.INFRA_FAILED),
        (Evidence("HostFailed", REWARD, phase="agent"), Outcome.INFRA_FAILED),
        (Evidence("SomethingNew", {"reward": 0.0}, phase="agent"), Outcome.AGENT_ERROR),
        (Evidence("SomethingNew", {"reward": 0.0}, phase="grading"), Outcome.INFRA_FAILED),
        (Evidence("SomethingNew"), Outcome.INFRA_FAILED),
        (Evidence("SandboxDied"), Outcome.INFRA_FAILED),
        (Evidence("SandboxExhausted"), Outcome.ENV_FAILED),
        (Evidence("NonZeroAgentExitCodeError"), Outcome.ENV_FAILED),
        (Evidence("VerifierTimeoutError", phase="grading"), Outcome.VERIFIER_TIMEOUT),
        (Evidence("RewardFileNotFoundError", phase="grading"), Outcome.ENV_FAILED),
        (Evidence("VerifierOutputParseError"), Outcome.ENV_FAILED),
        (Evidence("EnvironmentStartTimeoutError"), Outcome.ENV_FAILED),
        (Evidence("CancelledError", phase="agent"), Outcome.INFRA_FAILED),
        (Evidence(), Outcome.INFRA_FAILED),
        (Evidence(grading_disabled=True), Outcome.COMPLETED),
        (Evidence("CancelledError", ended_by=Outcome.TAIL_KILLED), Outcome.TAIL_KILLED),
    ],
)
def test_classification(left, outcome):
    assert classify(left) is outcome


def test_overlong_and_timeout_follow_the_settings():
    overlong, late = Evidence(rewards=REWARD, context_overflow=True), Evidence("AgentTimeoutError", REWARD, phase="agent")
    assert judge(overlong, "reward", "keep", "drop").in_loss and not judge(overlong, "reward", "drop", "drop").in_loss
    assert not judge(late, "reward", "keep", "drop").in_loss and judge(late, "reward", "keep", "keep").in_loss
    assert judge(late, "reward", "keep", "drop").reward == 1.0


def test_an_agent_that_ruins_its_sandbox_gets_nothing():
    for name in ("SandboxExhausted", "SandboxDied", "RuntimeError", "AgentAuthenticationError"):
        judgement = judge(Evidence(name, phase="agent"), "score", "keep", "drop")
        assert (judgement.outcome, judgement.reward, judgement.in_loss) == (Outcome.AGENT_ERROR, 0.0, True)
    assert not judge(Evidence("SandboxExhausted", phase="agent", grading_disabled=True), "score", "keep", "drop").graded


def test_the_named_number_must_be_there():
    assert judge(Evidence(rewards={"a": 1.0, "b": 0.25}), "b", "keep", "drop").reward == 0.25
    with pytest.raises(RewardMissing):
        judge(Evidence(rewards={"a": 1.0}), "b", "keep", "drop")
