"""Groups of eight with none to eight sessions absent, through the real TransferQueue and verl's own replay buffer and advantage.

Absence is what takes a trial out of GRPO: verl's group mean and deviation are taken over the rows that exist.
"""

import asyncio
import math
import os
import shutil
import uuid

import pytest

from swerl.record.events import read_events

pytestmark = [pytest.mark.train, pytest.mark.slow]

N = 8
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    import ray

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    scratch = f"/tmp/swerl-test-{uuid.uuid4().hex[:8]}"
    ray.init(num_cpus=4, include_dashboard=False, _temp_dir=scratch, object_store_memory=100_000_000)
    import transfer_queue as tq
    from omegaconf import OmegaConf

    tq.init(
        OmegaConf.create(
            {"controller": {"polling_mode": True}, "backend": {"SimpleStorage": {"num_data_storage_units": 1, "total_storage_size": 1000}}}
        )
    )
    yield tq
    tq.close()
    ray.shutdown()
    shutil.rmtree(scratch)


class Rollouts:
    """Stands where `TrialRollout` does: sessions as the test wants them, settled in a shuffled order."""

    def __init__(self, absent, side_paths=0):
        self.absent, self.side_paths = set(absent), side_paths

    async def run(self, *, split, extra_info, sample, version, step):
        from swerl.trainer.rollout import Session
        from swerl.trainer.rows import Row

        await asyncio.sleep(0.001 * ((sample * 5) % N))
        outcome = "infra_failed" if sample in self.absent else "completed"
        result = {"outcome": outcome, "error": None, "timing": {"agent_s": 1.0, "verifier_s": 0.1}}
        if sample in self.absent:
            return Session(result, [], None)
        row = Row([1, 2], [10 + sample, 3, 4], [1, 0, 1], [-0.5, 0.0, -0.25], [7, -1, 7], 2)
        return Session(result, [row] * (1 + self.side_paths), REWARDS[sample], {"acc": REWARDS[sample]})


def worker(rollouts, tmp_path, n=N, val_n=4):
    """The worker's own code without the model it would load."""
    from omegaconf import OmegaConf

    from swerl.record.events import EventLog
    from swerl.record.lineage import Lineage
    from swerl.trainer.manager import TrialWorker

    made = object.__new__(TrialWorker)
    made.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": n, "val_kwargs": {"n": val_n}}}})
    made.rollout, made.lineage = rollouts, Lineage(1, 0, "init:0")
    made.events = EventLog(tmp_path / "agent_loop.jsonl", "agent_loop")
    made.reward_loop_worker_handles, made.distillation_enabled, made.processor = None, False, None
    made.mm_processor_kwargs, made.serial = {}, None
    return made


def publish(queue, made, split="train", step=8, task="t1"):
    """Run one group to its end; returns its uid."""
    uid = str(uuid.uuid4())
    queue.kv_batch_put(keys=[uid], partition_id=split, tags=[{"is_prompt": True, "status": "pending", "global_steps": step}])
    prompt = {"uid": uid, "global_steps": step, "raw_prompt": [], "index": 0, "data_source": "demo"}
    prompt["extra_info"] = {"task_id": task, "task_hash": f"sha256:{task}"}
    asyncio.run(made._run_prompt(prompt, {}, {"validate": split == "val"}))
    return uid


def rows(queue, uid, split="train"):
    return sorted(key for key in queue.kv_list(split)[split] if key.startswith(f"{uid}_"))


@pytest.fixture(autouse=True)
def clean(queue):
    yield
    for split, items in (queue.kv_list() or {}).items():
        if items:
            queue.kv_clear(keys=list(items), partition_id=split)


@pytest.mark.parametrize("absent", range(N + 1))
def test_the_advantage_is_over_those_present(queue, tmp_path, absent):
    import torch
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import AdvantageEstimator
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    gone = list(range(absent))
    uid = publish(queue, worker(Rollouts(gone), tmp_path))
    keys = rows(queue, uid)
    tag = queue.kv_list("train")["train"][uid]
    present = [i for i in range(N) if i not in gone]
    if len(present) < 2:
        assert keys == [] and tag["status"] == "failure" and "infra_failed" in tag["cause"]
        return
    assert tag["status"] == "finished"
    assert [int(key.split("_")[1]) for key in keys] == present
    stored = queue.kv_batch_get(keys=keys, partition_id="train", select_fields=["response_mask", "rm_scores", "rollout_log_probs"])
    data = DataProto(batch=stored.to_padded_tensor())
    data.batch["token_level_rewards"] = data.batch["rm_scores"]
    import numpy as np

    data.non_tensor_batch["uid"] = np.array([uid] * len(keys), dtype=object)
    data = compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=AdvantageEstimator.GRPO, num_repeat=N)
    kept = [REWARDS[i] for i in present]
    mean = sum(kept) / len(kept)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in kept) / (len(kept) - 1))
    expected = torch.tensor([[(r - mean) / (deviation + 1e-6), 0.0, (r - mean) / (deviation + 1e-6)] for r in kept])
    torch.testing.assert_close(data.batch["advantages"], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(data.batch["rollout_log_probs"], torch.tensor([[-0.5, 0.0, -0.25]] * len(kept)))


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_a_group_too_small_is_refilled_not_trained(queue, tmp_path, mode):
    from omegaconf import OmegaConf

    from swerl.trainer import replay

    sampler = {"max_off_policy_threshold": 8, "max_off_policy_strategy": "drop", "sampler_kwargs": {}, "sync_refill_failed_groups": True}
    config = OmegaConf.create(
        {"trainer": {"v1": {mode: {}, "sampler": sampler}}, "algorithm": {}, "data": {"train_batch_size": 2}},
    )
    refilled = []

    def refill(count):
        refilled.append(count)
        for _ in range(count):
            publish(queue, worker(Rollouts([]), tmp_path))
        return count

    buffer = replay.build(config, mode, refill, None)
    good = publish(queue, worker(Rollouts([2]), tmp_path))
    bad = publish(queue, worker(Rollouts(range(1, N)), tmp_path))
    batch, metrics = buffer.sample(global_steps=8, partition_id="train", batch_size=2)
    assert refilled == [1]
    assert metrics["training/rollout_failure/evicted_samples"] == 1
    groups = {key.split("_")[0] for key in batch.keys}
    assert good in groups and bad not in groups and len(groups) == 2
    assert len(batch.keys) == N - 1 + N


@pytest.mark.parametrize("again", [True, False])
def test_a_group_that_an_earlier_start_left_without_anything_to_train_is_sampled_anew(queue, tmp_path, again):
    """As the journal of a run whose engine died: agents that gave up are settled for good, and no group of the step can be trained. The
    next start does not take their word for it; what it settled itself stands."""

    class Earlier(Rollouts):
        async def run(self, *, anew=False, **asked):
            session = await Rollouts([] if anew else range(N)).run(**asked)
            session.result["reused"] = again and not anew
            return session

    made = worker(Earlier([]), tmp_path)
    uid = publish(queue, made)
    tag = queue.kv_list("train")["train"][uid]
    assert (tag["status"], len(rows(queue, uid))) == (("finished", N) if again else ("failure", 0))
    asked_anew = [event for event in read_events(tmp_path / "agent_loop.jsonl") if event["kind"] == "group.anew"]
    assert len(asked_anew) == (1 if again else 0)


def test_validation_publishes_whatever_was_graded(queue, tmp_path):
    uid = publish(queue, worker(Rollouts([0, 1, 2]), tmp_path), split="val")
    assert len(rows(queue, uid, "val")) == 1
    assert queue.kv_list("val")["val"][uid]["status"] == "finished"


def test_an_error_reaches_the_trainer_with_its_cause(queue, tmp_path):
    class Broken(Rollouts):
        async def run(self, *, sample, **kwargs):
            if sample == 5:
                raise RuntimeError("the recording has no versions")
            return await super().run(sample=sample, **kwargs)

    from swerl.errors import SwerlError
    from swerl.trainer.replay import Watch

    uid = publish(queue, worker(Broken([]), tmp_path))
    tag = queue.kv_list("train")["train"][uid]
    assert tag["broken"] and "the recording has no versions" in tag["cause"]
    assert rows(queue, uid) == []
    with pytest.raises(SwerlError, match="the recording has no versions"):
        Watch(lambda: None, lambda: None, max_failed_groups=8).group_failed(tag["cause"], tag["broken"])


def test_the_main_path_is_published_last_and_carries_the_reward(queue, tmp_path):
    uid = publish(queue, worker(Rollouts([], side_paths=1), tmp_path))
    keys = rows(queue, uid)
    assert len(keys) == 2 * N
    tags = queue.kv_list("train")["train"]
    assert all(tags[key]["min_global_steps"] == 7 for key in keys)


def test_a_batch_is_in_the_order_of_its_identities_not_of_its_coming(queue, tmp_path):
    """Random names and another order of arrival: the rows of equal trials stand in equal places, samples in order, paths in order."""
    from omegaconf import OmegaConf

    from swerl.trainer import replay
    from swerl.trainer.manager import group_rank

    sampler = {"max_off_policy_threshold": 8, "max_off_policy_strategy": "drop", "sampler_kwargs": {}, "sync_refill_failed_groups": True}
    config = OmegaConf.create({"trainer": {"v1": {"sync": {}, "sampler": sampler}}, "algorithm": {}, "data": {"train_batch_size": 3}})
    orders = []
    for tasks in (["a", "b", "c"], ["c", "a", "b"]):
        names = {publish(queue, worker(Rollouts([1], side_paths=1), tmp_path), task=task): task for task in tasks}
        batch, _ = replay.build(config, "sync", lambda count: count, None).sample(global_steps=8, partition_id="train", batch_size=3)
        assert [tag["seq_len"] for tag in batch.tags] == [5] * len(batch.keys)
        orders.append([(names[uid], int(session), int(path)) for uid, session, path in (key.split("_") for key in batch.keys)])
        queue.kv_clear(keys=batch.keys, partition_id="train")
    assert orders[0] == orders[1] and len(orders[0]) == 3 * (N - 1) * 2
    assert orders[0] == sorted(orders[0], key=lambda row: (group_rank(f"sha256:{row[0]}", 8), *row[1:]))


def test_serial_trials_run_one_after_the_other_in_the_order_of_the_data(queue, tmp_path):
    seen, running = [], []

    class One(Rollouts):
        async def run(self, *, sample, extra_info, **kwargs):
            running.append(1)
            assert len(running) == 1, "two trials at a time"
            session = await super().run(sample=sample, extra_info=extra_info, **kwargs)
            running.pop()
            seen.append((extra_info["task_id"], sample))
            return session

    async def dispatched():
        made = worker(One([]), tmp_path)
        made.serial = asyncio.Lock()
        prompts = []
        for task in ("z", "a", "m"):
            uid = str(uuid.uuid4())
            queue.kv_batch_put(keys=[uid], partition_id="train", tags=[{"is_prompt": True, "status": "pending", "global_steps": 8}])
            facts = {"task_id": task, "task_hash": f"sha256:{task}"}
            prompts.append({"uid": uid, "global_steps": 8, "raw_prompt": [], "index": 0, "data_source": "demo", "extra_info": facts})
        await asyncio.gather(*(asyncio.create_task(made._run_prompt(prompt, {}, {"validate": False})) for prompt in prompts))

    asyncio.run(dispatched())
    assert seen == [(task, sample) for task in ("z", "a", "m") for sample in range(N)]


def test_a_dead_engine_ends_the_waiting_with_its_cause(monkeypatch):
    from swerl.errors import SwerlError
    from swerl.trainer import replay

    monkeypatch.setattr(replay, "_ASK_ENGINE_S", 0.0)
    causes = [None, "replica a:1: its server says that the engine is dead"]
    watch = replay.Watch(lambda: None, lambda: causes.pop(0), max_failed_groups=8)
    watch.between_polls()
    with pytest.raises(SwerlError, match=r"SWERL-R120.*replica a:1"):
        watch.between_polls()
