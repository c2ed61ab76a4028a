"""verl's replay buffers with a short poll and an end to waiting.

verl polls the TransferQueue every two seconds and for ever: a dead worker leaves the run hanging with idle GPUs and no word. `Watch` is
asked between polls; it looks whether the engine and the workers live, and counts groups that failed, so that a broken sandbox or gateway
ends the step with its first cause instead of being refilled without end. Rows come sorted by identity, so that a step's numbers depend on
its trials alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from swerl.errors import fail

POLL_S = 0.2
_CHECK_EVERY_S = 10.0
_ASK_ENGINE_S = 2.0


class Watch:
    """Decides when waiting is over. ``check_workers`` raises when a worker is gone, ``engine_died`` says why no engine answers any more;
    ``max_failed_groups`` is per batch sampled."""

    def __init__(self, check_workers: Callable[[], None], engine_died: Callable[[], str | None], max_failed_groups: int):
        self.check_workers, self.engine_died, self.max_failed_groups = check_workers, engine_died, max_failed_groups
        self._checked_at = self._asked_at = time.monotonic()
        self.failed: list[str] = []

    def begin(self) -> None:
        self.failed = []

    def refuse_dead_engine(self, error: BaseException | None = None) -> None:
        """Raise SWERL-R120 if the engine is dead; ``error`` is what somebody met of that."""
        if (cause := self.engine_died()) is not None:
            remedy = "read the trainer's log for the engine's last words; the run starts the trainer again from its newest checkpoint"
            raise fail("SWERL-R120", f"the engine is dead: {cause}", remedy) from error

    def between_polls(self) -> None:
        if time.monotonic() - self._asked_at >= _ASK_ENGINE_S:
            self._asked_at = time.monotonic()
            self.refuse_dead_engine()
        if time.monotonic() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        try:
            self.check_workers()
        except Exception as error:  # Ray names a dead actor by several exception classes; all mean that nobody will finish the batch
            raise fail(
                "SWERL-R111",
                f"an agent-loop worker or the engine bridge is gone while trials are awaited: {error}",
                "read the trainer's log for its last words; the same command resumes from the newest checkpoint",
            ) from error

    def group_failed(self, cause: str, broken: bool) -> None:
        """Count a group without enough sessions. ``broken``: it failed by an error of ours or a service, not by its trials."""
        self.failed.append(cause)
        if broken or len(self.failed) > self.max_failed_groups:
            raise fail(
                "SWERL-R112",
                f"{len(self.failed)} groups of this step could not be trained; the first: {self.failed[0]}",
                "mend the cause (trials' results are under trials/ of the run); the same command resumes",
            )


class _Watched:
    """Mixed into verl's buffers. ``watch`` is set by the trainer once the workers exist."""

    watch: Watch | None = None

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        if self.watch is not None:
            self.watch.begin()
        return super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        if self.watch is None or not any(self.failure_keys.values()):
            return
        for partition, uids in self.failure_keys.items():
            tags = tq.kv_list(partition)[partition]
            for uid in uids:
                self.watch.group_failed(tags[uid].get("cause", "no cause was recorded"), bool(tags[uid].get("broken")))

    def _materialize_batch(self, partition_id: str, selected_prompt_uids: list[str], partition_snapshot: dict[str, dict]) -> KVBatchMeta:
        """verl's batch, its rows sorted by identity: equal trials give equal batches, whatever order they finished in."""
        tags = tq.kv_list(partition_id)[partition_id]
        ranks = {uid: tags[uid]["rank"] for uid in selected_prompt_uids}
        batch = super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)
        order = sorted(range(len(batch.keys)), key=lambda i: row_identity(batch.keys[i], ranks))
        return KVBatchMeta(partition_id=partition_id, keys=[batch.keys[i] for i in order], tags=[batch.tags[i] for i in order])

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        if self.watch is not None:
            self.watch.between_polls()
        return super()._wait_for_next_poll(partition_id, last_debug_time)


class WatchedBuffer(_Watched, ReplayBuffer):
    """For the sync mode."""


class WatchedBufferAsync(_Watched, ReplayBufferAsync):
    """For colocate_async."""


def row_identity(key: str, ranks: dict[str, str]) -> tuple[str, int, int]:
    """Rank of the group, sample, path: from verl's key ``{uid}_{session}_{index}``."""
    uid, session, index = key.rsplit("_", 2)
    return ranks[uid], int(session), int(index)


def build(config: Any, mode: str, refill: Callable[[int], int], filter_metric: str | None) -> WatchedBuffer | WatchedBufferAsync:
    """The buffer of ``mode`` with verl's own settings: what its factory passes to the built-in classes."""
    sampler = config.trainer.v1.sampler
    common = {
        "trainer_mode": mode,
        "trainer_config": config.trainer.v1.get(mode, {}),
        "max_off_policy_threshold": sampler.max_off_policy_threshold,
        "max_off_policy_strategy": sampler.max_off_policy_strategy,
        "sampler_kwargs": sampler.sampler_kwargs,
        "poll_interval": POLL_S,
        "refill_fn": refill,
        "filter_groups_metric": filter_metric,
        "sync_refill_failed_groups": bool(sampler.get("sync_refill_failed_groups", False)),
    }
    if mode != "sync":
        return WatchedBufferAsync(**common)
    filter_groups = config.algorithm.get("filter_groups", None)
    return WatchedBuffer(
        **common,
        train_batch_size=config.data.train_batch_size,
        gen_batch_size=1,
        max_inflight_gen_batches=filter_groups.get("max_inflight_gen_batches", 1) if filter_metric is not None else 1,
    )
