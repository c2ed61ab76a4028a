"""``capture.paths: all``: a session weighs the same however many paths it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.train


@given(st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 50), min_size=1, max_size=4), min_size=1))
def test_shares_of_a_session_sum_to_one(sessions):
    from swerl.trainer.paths import session_shares

    keys = [f"uid_{session}_{i}" for session, rows in sessions.items() for i in range(len(rows))]
    counts = [count for rows in sessions.values() for count in rows]
    shares = dict(zip(keys, session_shares(keys, counts), strict=True))
    for session, rows in sessions.items():
        total = sum(shares[f"uid_{session}_{i}"] for i in range(len(rows)))
        assert total == pytest.approx(1.0 if sum(rows) else 0.0)


def gspo_gradient(rows, groups):
    """Gradient of verl's GSPO loss with respect to one logit per token id, for rows of (token ids, session, advantage)."""
    import torch
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import ActorConfig, FSDPActorConfig

    from swerl.trainer.paths import session_shares

    config = FSDPActorConfig(strategy="fsdp2", ppo_micro_batch_size_per_gpu=1, clip_ratio_low=0.2, clip_ratio_high=0.2, rollout_n=2)
    assert isinstance(config, ActorConfig)
    config.global_batch_info.update(dp_size=1, batch_num_tokens=None, global_batch_size=groups, loss_scale_factor=None)
    width = max(len(tokens) for tokens, _, _ in rows)
    logits = torch.zeros(20, requires_grad=True)
    log_probs = torch.stack(
        [torch.stack([torch.log_softmax(logits, 0)[t] for t in [*tokens, *[0] * (width - len(tokens))]]) for tokens, _, _ in rows]
    )
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _, _ in rows]).bool()
    seen: dict[str, int] = {}
    keys = []
    for _, session, _ in rows:
        keys.append(f"uid_{session}_{seen.setdefault(session, 0)}")
        seen[session] += 1
    shares = torch.tensor(session_shares(keys, mask.sum(1).tolist()))
    advantages = torch.tensor([[a] * width for _, _, a in rows]) * shares.unsqueeze(1)
    loss, _ = get_policy_loss_fn("gspo")(
        old_log_prob=log_probs.detach(), log_prob=log_probs, advantages=advantages, response_mask=mask,
        loss_agg_mode="seq-mean-token-mean", config=config,
    )  # fmt: skip
    loss.backward()
    return logits.grad


def test_splitting_a_session_into_paths_leaves_the_gradient_unchanged():
    import torch

    whole = [([1, 2, 3, 4, 5, 6], 0, 1.0), ([7, 8, 9], 1, -1.0)]
    split = [([1, 2], 0, 1.0), ([3], 0, 1.0), ([4, 5, 6], 0, 1.0), ([7, 8, 9], 1, -1.0)]
    torch.testing.assert_close(gspo_gradient(split, groups=2), gspo_gradient(whole, groups=2))


def test_the_step_has_the_configured_number_of_updates_whatever_the_rows():
    from omegaconf import OmegaConf

    from swerl.trainer.paths import AllPaths

    class Bare(AllPaths):
        def __init__(self, config):
            self.config = config

        on_step_end = on_sample_end = None

    config = OmegaConf.create(
        {
            "data": {"train_batch_size": 8},
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 4, "use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 8},
                "rollout": {"log_prob_use_dynamic_bsz": False, "log_prob_micro_batch_size_per_gpu": 16},
            },
        }
    )
    trainer = Bare(config)
    for dp_size in (1, 2, 4):
        multiple = trainer._get_required_batch_multiple(dp_size)
        for rows in (multiple, 3 * multiple):
            per_update = rows // trainer.updates_per_step
            assert rows % trainer.updates_per_step == 0 and per_update % (dp_size * 8) == 0 and rows % (dp_size * 16) == 0
