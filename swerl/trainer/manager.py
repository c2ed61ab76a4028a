"""verl's agent-loop manager and worker for trials: a group of sessions in, settled rows out.

Named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``. A worker runs one asyncio task per session; it holds a group until
every session has settled, because a row that is published early could be trained without its siblings. Then (training) a group with at
least two sessions that have rows is published, and a smaller one is published as ``failure`` with no rows, which the replay buffer
refills; (validation) whatever was graded is published. A session that is absent writes nothing: verl's group statistics use every row
that exists, whatever its mask. With ``harbor_runtime.num_workers: 1`` trials run strictly one after the other, in the order of the data.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import hydra
import ray
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, _agent_loop_registry
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from swerl.record.events import EventLog
from swerl.record.lineage import current_lineage
from swerl.record.rundir import RunDir
from swerl.trainer.bridge import EngineBridge
from swerl.trainer.rollout import Session, TrialRollout

logger = logging.getLogger(__name__)
MIN_GROUP = 2  # a GRPO advantage needs somebody to be compared with


def plain_class(actor_class: Any) -> type:
    """The Python class behind a ``ray.remote`` class, so that it can be subclassed."""
    return actor_class.__ray_metadata__.modified_class


class TrialWorker(plain_class(AgentLoopWorkerTQ)):
    """One agent-loop worker; about one per node (`rollout.agent.num_workers`), each with many sessions in flight."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        loop_config = _agent_loop_registry[config.actor_rollout_ref.rollout.agent.default_agent_loop]
        if config.swerl.recorded:
            loop_config = {**loop_config, "_target_": "swerl.trainer.recorded.RecordedTrials", "source": config.swerl.recorded}
        self.rollout: TrialRollout = hydra.utils.instantiate(loop_config)
        self.serial: asyncio.Lock | None = asyncio.Lock() if config.swerl.serial else None
        run = RunDir.at(Path(str(loop_config["services"])).parent)
        self.lineage = current_lineage(run.lineage)
        self.rollout.epoch = self.lineage.epoch
        self.events = EventLog(run.events_of("agent_loop"), "agent_loop")

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        """Run a group to its end and publish it. Overrides verl's method, which publishes each session as it comes."""
        if self.serial is None:
            return await self._run_group(prompt, trajectory["validate"])
        async with self.serial:  # fair: groups run in the order in which they were dispatched
            return await self._run_group(prompt, trajectory["validate"])

    async def _run_group(self, prompt: dict, validate: bool) -> None:
        uid, partition = prompt["uid"], "val" if validate else "train"
        await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": "running"})
        tag: dict[str, Any]
        try:
            rollout = self.config.actor_rollout_ref.rollout
            n = prompt.pop("__rollout_n__", rollout.val_kwargs.n if validate else rollout.n)
            sessions = await self._settle_group(prompt, n, validate)
            if not validate and len(trainable(sessions)) < needed(sessions) and any(s.result.get("reused") for s in sessions):
                # what an earlier start settled keeps this group from being trained: that start's troubles must not be this one's for ever
                self.events.emit("group.anew", uid=uid, task=prompt["extra_info"]["task_id"], cause=cause_of(sessions))
                sessions = await self._settle_group(prompt, n, validate, anew=True)
            tag = await self._publish(prompt, sessions, validate)
        except Exception as error:  # a task's exception reaches nobody: it goes into the group's tag, which the replay buffer reads
            logger.exception("group %s failed", uid)
            tag = {"status": "failure", "cause": f"{type(error).__name__}: {error}", "broken": True}
        if tag["status"] == "failure":
            self.events.emit("group.failed", uid=uid, split=partition, task=prompt["extra_info"]["task_id"], cause=tag["cause"])
        tag["rank"] = group_rank(prompt["extra_info"]["task_hash"], int(prompt["global_steps"]))
        await tq.async_kv_put(key=uid, partition_id=partition, tag=tag)

    async def _settle_group(self, prompt: dict, n: int, validate: bool, anew: bool = False) -> list[Session]:
        """The ``n`` sessions of a group, in order, all settled. The first error of any is raised after the last has ended."""
        # the row's global_steps is the step being collected; in training the weights are one step behind it
        step = int(prompt["global_steps"])
        version = self.lineage.version(step if validate else step - 1)
        split = "val" if validate else "train"
        asked = {"split": split, "extra_info": prompt["extra_info"], "version": version, "step": step, **({"anew": True} if anew else {})}
        trials = [self.rollout.run(sample=i, **asked) for i in range(n)]
        if self.serial is not None:
            return [await trial for trial in trials]
        settled = await asyncio.gather(*trials, return_exceptions=True)
        for outcome in settled:
            if isinstance(outcome, BaseException):
                raise outcome
        return settled

    async def _publish(self, prompt: dict, sessions: list[Session], validate: bool) -> dict[str, Any]:
        """Write the rows of a group into the TransferQueue and return the tag that makes it terminal."""
        present = trainable(sessions)
        if len(present) < needed(sessions) and not validate:
            return {"status": "failure", "cause": cause_of(sessions)}
        for index, session in present:
            await self._agent_loop_postprocess(outputs_of(session), validate, session_id=index, **prompt)
        return {"status": "finished"}


def trainable(sessions: list[Session]) -> list[tuple[int, Session]]:
    """The sessions with rows and a reward, by their place in the group."""
    return [(i, session) for i, session in enumerate(sessions) if session.rows and session.reward is not None]


def needed(sessions: list[Session]) -> int:
    return min(MIN_GROUP, len(sessions))


def cause_of(sessions: list[Session]) -> str:
    outcomes = ", ".join(f"{s.result['outcome']}{': ' + s.result['error'] if s.result.get('error') else ''}" for s in sessions)
    return f"{len(trainable(sessions))} of {len(sessions)} sessions can be trained ({outcomes})"


def group_rank(task_hash: str, step: int) -> str:
    """Where a group's rows stand in the batch of its step: by what they are, not by when they came or by the random names verl gives them.
    The step is in it so that tasks do not keep their neighbours."""
    return hashlib.sha256(f"{step}|{task_hash}".encode()).hexdigest()


def outputs_of(session: Session) -> list[AgentLoopOutput]:
    """verl's outputs for a session, main path last; reward and turn count stand on the last (the others receive the reward from verl)."""
    outputs = []
    for position, row in enumerate(session.rows):
        main = position == len(session.rows) - 1
        timing = session.result["timing"]
        outputs.append(
            AgentLoopOutput(
                prompt_ids=row.prompt_ids,
                response_ids=row.response_ids,
                response_mask=row.mask,
                response_logprobs=row.logprobs,
                reward_score=session.reward if main else None,
                num_turns=row.turns,
                metrics=AgentLoopMetrics(generate_sequences=timing["agent_s"], compute_score=timing["verifier_s"]),
                extra_fields={
                    "min_global_steps": row.first_version,
                    "max_global_steps": row.last_version,
                    "reward_extra_info": dict(session.extra),
                },
            )
        )
    return outputs


class SwerlAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with our workers. `start_bridge` gives the gateway its engine."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(TrialWorker)
        self.bridge: Any = None

    def start_bridge(self, epoch: int, eos_token_ids: list[int], bind_host: str, events: Path) -> dict[str, Any]:
        """Start the bridge on the driver's node; returns its address as `EngineBridge.start` does. Its events go to the file ``events``."""
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(EngineBridge).options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here)
        self.bridge = actor.remote(self.llm_client, epoch, self.rollout_config.max_num_seqs, eos_token_ids, bind_host, events)
        return ray.get(self.bridge.start.remote())

    def check_workers(self) -> None:
        """Raise ray.exceptions.RayActorError if an agent-loop worker or the bridge is gone."""
        ray.get([actor.__ray_ready__.remote() for actor in (*self.agent_loop_workers, self.bridge)], timeout=60)

    def engine_died(self) -> str | None:
        """Why no engine answers any more; None while all replicas live. A bridge that does not say is `check_workers`' affair."""
        try:
            return None if self.bridge is None else ray.get(self.bridge.why_dead.remote(), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            return None
