"""Training every path of a session (``capture.paths: all``) without giving branched sessions more weight or the step more updates.

verl's loss counts rows: a session with three paths would weigh three times as much as one with a single path, and more rows would mean
more optimizer steps. Here the rows of a session share its weight by their trained tokens, so that with ``seq-mean-token-mean`` the loss
of a session is the mean over all its sampled tokens whatever their number of paths; and a step is always
``train_batch_size / ppo_mini_batch_size`` updates over mini-batches of equal row counts. The share is applied to the advantage: every
clipped policy loss is homogeneous in it. Terms that are not (KL in the loss, entropy bonus) are refused together with ``all``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.workers.utils.padding import response_to_nested

from swerl.errors import fail


def session_shares(keys: Sequence[str], trained_tokens: Sequence[int]) -> list[float]:
    """Each row's share of its session, by trained tokens; the shares of a session sum to 1. Keys are verl's ``{uid}_{session}_{index}``."""
    totals: defaultdict[str, int] = defaultdict(int)
    sessions = [key.rsplit("_", 1)[0] for key in keys]
    for session, count in zip(sessions, trained_tokens, strict=True):
        totals[session] += count
    return [count / totals[s] if totals[s] else 0.0 for s, count in zip(sessions, trained_tokens, strict=True)]


class AllPaths(PPOTrainer):
    """Mixed in before a trainer of `modes`."""

    def __init__(self, config: Any):
        actor = config.actor_rollout_ref.actor
        if actor.loss_agg_mode != "seq-mean-token-mean" or actor.use_kl_loss or actor.entropy_coeff:
            raise fail(
                "SWERL-R114",
                "capture.paths=all needs loss_agg_mode seq-mean-token-mean, no KL loss and no entropy bonus: it weighs by the advantage",
                "set capture.paths: main, or algorithm.loss_agg_mode: seq-mean-token-mean, use_kl_loss: false and entropy_coeff: 0",
            )
        super().__init__(config)

    @property
    def updates_per_step(self) -> int:
        return self.config.data.train_batch_size // self.config.actor_rollout_ref.actor.ppo_mini_batch_size

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        train = 1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
        score = 1 if rollout.log_prob_use_dynamic_bsz else rollout.log_prob_micro_batch_size_per_gpu
        return math.lcm(self.updates_per_step * dp_size * train, dp_size * score)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages", "response_mask"])
        mask = data["response_mask"]
        padded = data.to_padded_tensor()
        shares = torch.tensor(session_shares(batch.keys, padded["response_mask"].sum(dim=1).tolist()))
        scaled = response_to_nested(padded["advantages"] * shares.unsqueeze(1), mask)
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict({"advantages": scaled}, batch_size=len(batch))
        )

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        batch.extra_info.update(
            {
                "calculate_entropy": actor.calculate_entropy,
                "distillation_use_topk": False,
                "distillation_only": False,
                "global_batch_size": actor.ppo_mini_batch_size * rollout.n,  # sessions, not rows: what the loss divides by
                "mini_batch_size": len(batch) // self.updates_per_step,
                "epochs": actor.ppo_epochs,
                "seed": actor.data_loader_seed,
                "dataloader_kwargs": {"shuffle": actor.shuffle},
                "temperature": rollout.temperature,
            }
        )
        output = rename_dict(self.actor_rollout_wg.update_actor(batch)["metrics"], "actor/")
        output["perf/mfu/actor"] = output.pop("actor/mfu")
        metrics.update(reduce_metrics(output))
        return batch
