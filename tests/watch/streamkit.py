"""A run's event and metrics streams, as its processes write them, with a clock of their own. Loaded by path from conftest files."""

from __future__ import annotations

from pathlib import Path

import orjson

from swerl.config import examine
from swerl.config.schema import PROJECT_ROOT
from swerl.record.rundir import RunDir
from swerl.runs.feed import Feed
from swerl.watch import Terms, Watchdog

HEALTHY = {
    "training/rollout_actor_probs_pearson_corr": 0.9999,
    "rollout_corr/kl": -1.6e-4,
    "actor/lr": 1e-6,
    "swerl/compile/count": 0.0,
    "actor/grad_norm": 0.8,
    "actor/entropy": 0.4,
    "rollout_corr/rollout_is_eff_sample_size": 0.97,
    "num_turns/mean": 14.0,
    "critic/score/mean": 0.4,
    "swerl/trials/count": 64,
    "swerl/trials/in_loss": 64,
    "timing_s/step": 300.0,
}
BEGAN = 1_800_000_000.0


class Stream:
    """The files that a run's processes write for readers, as they write them, and a watchdog that reads them as the supervisor does.

    ``now`` is the run's clock. A fault is planted by what is written, never in a rule."""

    def __init__(self, root: Path, **sets: object):
        self.run = RunDir.at(root / "runs" / "a")
        self.run.create()
        chosen = {"model.model_path": "/m", "data.data_dir": "/d", **sets}
        found = examine(PROJECT_ROOT / "config.yaml", None, {k: orjson.dumps(v).decode() for k, v in chosen.items()}, {})
        assert found.config is not None, found.problems
        self.terms = Terms.of(found.config, total_steps=100, checkpoint_bytes=10 * 10**9)
        self.now = BEGAN
        self.watchdog = Watchdog(self.terms, now=self.now)
        self.feed = Feed(self.run, listen=self.watchdog.take)
        self.step = 0

    def emit(self, source: str, kind: str, **fields: object) -> None:
        with self.run.events_of(source).open("ab") as file:
            file.write(orjson.dumps({"time": self.now, "source": source, "kind": kind, **fields}) + b"\n")

    def boot(self, replicas: int | None = None) -> None:
        self.emit("trainer", "trainer.start", restored_step=0)
        self.now += 120
        self.emit("trainer", "engine.ready", step=0, **({} if replicas is None else {"replicas": replicas}))

    def begin(self) -> None:
        self.step += 1
        self.emit("trainer", "step.begin", step=self.step)

    def trial(
        self,
        task: int,
        sample: int,
        reward: float = 0.0,
        *,
        split: str = "train",
        setup_s: float = 2.0,
        settle: bool = True,
        turns: int = 14,
    ) -> None:
        name = f"{split}-{task}-{sample}-{self.step}"
        self.emit("runner", "trial.started", step=self.step, trial=name, task=str(task), split=split, attempt=1)
        if not settle:
            return
        self.emit(
            "runner",
            "trial.settled",
            step=self.step,
            trial=name,
            split=split,
            task_hash=f"sha256:{task}",
            sample=sample,
            outcome="completed",
            in_loss=True,
            reward=reward,
            turns=turns,
            setup_s=setup_s,
        )

    def end(self, **metrics: object) -> None:
        """The update, the row of the step, and the engine back."""
        self.emit("trainer", "engine.paused", step=self.step, reason="update")
        self.now += 60
        self.emit("trainer", "engine.resumed", step=self.step)
        with self.run.metrics.open("ab") as file:
            file.write(orjson.dumps({"step": self.step, "lineage": "L1", "data": {**HEALTHY, **metrics}}) + b"\n")
        self.emit("trainer", "step.end", step=self.step)

    def trained(
        self, *, rewards: tuple[float, ...] = (0.0, 1.0), setup_s: float = 2.0, turns: int | None = None, **metrics: object
    ) -> None:
        """A whole step of eight groups; the samples of a group get ``rewards`` in turn. A trial has ``turns`` turns; unless that is said,
        as many as are on the path that is trained."""
        self.begin()
        had = round(float(metrics.get("num_turns/mean", 14.0))) if turns is None else turns
        for task in range(8):
            self.now += 30
            for sample in range(8):
                self.trial(task, sample, rewards[sample % len(rewards)], setup_s=setup_s, turns=had)
        self.end(**metrics)

    def sample(self, **fields: object) -> None:
        self.emit("supervisor", "sample", **{"disk_free_bytes": 10**12, "shm_free_bytes": 10**10, "shm_bytes": 10**10, **fields})

    def pass_time(self, minutes: float, **fields: object) -> None:
        """Time in which nothing happens but the supervisor's looks."""
        for _ in range(int(minutes * 4)):
            self.now += 15
            self.sample(**fields)
            self.alarms()

    def alarms(self) -> list[str]:
        """Ids that were raised since the last call."""
        self.feed.poll()
        self.seen = self.watchdog.look(self.now)
        self.raised = [*getattr(self, "raised", []), *self.seen]
        return [alarm.id for alarm in self.seen]

    def all_ids(self) -> set[str]:
        self.alarms()
        return {alarm.id for alarm in self.raised}
