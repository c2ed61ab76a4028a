"""The kill drill: ``make drill SEEDS=10``. Real training runs with kills drawn from a seed, beside the undisturbed run.

A run is twelve steps of the demo's profile on a small policy: real verl, vLLM, gateway, runner and sandboxes, one trial at a time, so that
all numbers follow from the seeds alone. Each seed kills (SIGKILL) every one of `VICTIMS` and another of the trainer's processes once, in an
order and at moments that it draws.
What has to be the same as without kills: every trial's reward, every number of every step that no clock is in, and every tensor of the
last checkpoint. Ends with 1 when a row is not as it should be.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "trials"))
from results import machine
from world import PROCESSES, ROOT, Run, make_world, run_in

from swerl.artifacts import compare
from swerl.record import checkpoints

STEPS = 12
SERVICES = ("gateway", "runner")  # started again while the trainer goes on
VICTIMS = (*SERVICES, "trainer", "tree")  # the tree: the supervisor and all that the kernel ties to it
# What compares the engine's log-probabilities with the trainer's. After an engine was replaced five of them were 2e-9 away once: a cold
# prefix cache sums in another order, it is thought. The tensors tell whether anything was trained on it.
ENGINES = re.compile(r"step \d+ (rollout_corr/|training/rollout_)")
ENGINES_WITHIN = 1e-5
PAGE = ROOT / "docs" / "results" / "drill.md"
COLUMNS = (
    "seed",
    "killed at step",
    "lost",
    "doubled",
    "equal rewards",
    "numbers differ",
    "tensors differ",
    "left",
    "service",
    "others",
    "took",
)
HEAD = """# The kill drill

Written by `make drill SEEDS={seeds} WRITE=1`; [drill.json](drill.json) holds the same. `make test TESTS=test_drill` (long) runs one seed.

Commit {commit}, {date}, {cores} cores, {memory_gib} GiB, load {load_before} before the start.

Training runs of {steps} steps of eight trials on a small policy: real verl, vLLM, gateway, runner and sandboxes, one trial at a time. Each
seed kills {victims} and another process of the trainer once each (SIGKILL), in an order and at moments it
draws; the tree is started again by the same command. Compared with the undisturbed run ({trials} trials, {solved} of them solved): rewards
trial by trial; the {numbers} numbers of metrics.jsonl that no clock is in and the {tensors} tensors of the last checkpoint, bit for bit.
Numbers about the engine's own log-probabilities may be {within:g} away: in one run five of them were, by up to 2e-9, after
the engine had been replaced (its cold prefix cache is the likely cause and was not tested).
In this profile they reach no weight: the tensors are equal.

"Service": the longest from the kill of gateway or runner to the next event of a trial or a step. "Others": the longest from the engine's
return to that, with the boot before it in brackets.
"""


@dataclass(frozen=True, slots=True)
class Kill:
    """``delay_s`` counts from the beginning of ``step``."""

    victim: str
    step: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one seed's run. Times are the longest of their kind."""

    seed: int
    kills: tuple[Kill, ...]
    lost: int
    doubled: int
    equal: int
    other_numbers: tuple[str, ...]
    other_tensors: tuple[str, ...]
    left: tuple[str, ...]
    service_s: float
    boot_s: float
    after_boot_s: float
    took_s: float

    def good(self, trials: int) -> bool:
        wrong = self.lost + self.doubled + len(self.other_numbers) + len(self.other_tensors) + len(self.left)
        return wrong == 0 and self.equal == trials

    def cells(self, trials: int) -> tuple[object, ...]:
        kills = ", ".join(f"{kill.victim.rpartition('::')[2]} {kill.step}" for kill in self.kills)
        wrong = self.lost, self.doubled, f"{self.equal} of {trials}", len(self.other_numbers), len(self.other_tensors), len(self.left)
        times = f"{self.service_s:.1f} s", f"{self.after_boot_s:.1f} s ({self.boot_s:.0f} s)", f"{self.took_s:.0f} s"
        return self.seed, kills, *wrong, *times


def drawn(seed: int, steps: int, step_s: float) -> tuple[Kill, ...]:
    """Each victim once, at steps of their own; neither the first, so that there is a checkpoint, nor the last, so that there is a rest."""
    draw, victims = random.Random(seed), [*VICTIMS, PROCESSES[seed % len(PROCESSES)]]
    draw.shuffle(victims)
    chosen = sorted(draw.sample(range(2, steps), len(victims)))
    return tuple(Kill(who, step, round(draw.uniform(0, step_s), 2)) for who, step in zip(victims, chosen, strict=True))


def kill(run: Run, one: Kill, before: float) -> float:
    """When it was done, in a step that has begun since ``before``, when the last was. The tree's command is given again."""
    while not any(e["kind"] == "step.begin" and e["step"] >= one.step and e["time"] > before for e in run.events("trainer")):
        assert run.process is not None and run.process.poll() is None, f"it ended before step {one.step}: {run.output()}"
        time.sleep(0.05)
    time.sleep(one.delay_s)
    at = time.time()
    if one.victim == "tree":
        assert run.process is not None
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        run.start()
    elif one.victim in PROCESSES:
        os.kill(run.descendant(one.victim), signal.SIGKILL)
    else:
        run.kill(one.victim)
    return at


def events_after(run: Run, at: float, *kinds: str) -> list[float]:
    sources = ("runner", "trainer")
    return sorted(e["time"] for s in sources for e in run.events(s) if e["time"] > at and e["kind"].startswith(kinds))


def back_s(run: Run, at: float, victim: str) -> tuple[float, float]:
    """Seconds of the boot (0 for a service) and from there to useful work. Called when the run is over."""
    if victim in SERVICES:
        ready = min(
            e["time"] for e in run.events("supervisor") if e["kind"] == "process.ready" and e["time"] > at and e["process"] == victim
        )
        return 0.0, events_after(run, ready, "trial.", "step.", "checkpoint.", "trainer.end")[0] - at
    ready = events_after(run, at, "engine.ready")[0]
    return ready - at, events_after(run, ready, "trial.", "step.", "checkpoint.", "trainer.end")[0] - ready


def rewards(run: Run) -> dict[tuple[int, str, str, int], float]:
    """Of what was judged, by the number of weight updates before it, split, task and sample: a resumed run has versions of other names."""
    found = {}
    for result in run.settled():
        who = result["identity"]
        if result["graded"]:
            found[int(who["version"].rpartition(":")[2]), who["split"], who["task_hash"], who["sample"]] = result["reward"]
    return found


def is_of_the_engine(one: compare.Difference) -> bool:
    return ENGINES.match(one.name) is not None and None not in (one.then, one.now) and abs(one.then - one.now) < ENGINES_WITHIN


def last_checkpoint(run: Run) -> Path:
    found, _ = checkpoints.newest(run.dir.checkpoints)
    assert found is not None, run.output()
    return found.path


def drill(seed: int, run: Run, calm: Run, step_s: float, steps: int) -> Row:
    began, kills = time.monotonic(), drawn(seed, steps, step_s)
    run.start()
    done: list[tuple[Kill, float]] = []
    for one in kills:
        done.append((one, kill(run, one, done[-1][1] if done else 0.0)))
    assert run.wait() == 0, run.output()
    expected, found = rewards(calm), rewards(run)
    judged = Counter(tuple(r["identity"].values()) for r in run.settled() if r["graded"])
    backs = [(one.victim, *back_s(run, at, one.victim)) for one, at in done]
    tensors, _ = compare.weights(last_checkpoint(calm), last_checkpoint(run))
    return Row(
        seed,
        kills,
        lost=len(expected.keys() - found.keys()),
        doubled=sum(count - 1 for count in judged.values()),
        equal=sum(found.get(key) == reward for key, reward in expected.items()),
        other_numbers=tuple(str(one) for one in compare.metrics(calm.metrics(), run.metrics()) if not is_of_the_engine(one)),
        other_tensors=tuple(map(str, tensors)),
        left=tuple(run.leftovers()),
        service_s=max(s for who, _, s in backs if who in SERVICES),
        boot_s=max(boot for who, boot, _ in backs if who not in SERVICES),
        after_boot_s=max(s for who, _, s in backs if who not in SERVICES),
        took_s=time.monotonic() - began,
    )


def main(seeds: int, write: bool = False, steps: int = STEPS) -> int:
    where, rows = machine(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        world = make_world(Path(folder), clean_steps=240)
        settings = {
            "training.total_steps": str(steps),
            "training.val_before_train": "false",
            "training.test_freq": str(steps),
            "harbor_runtime.num_workers": "1",
        }
        calm = run_in(world, "undisturbed", settings)
        runs = [calm]
        try:
            calm.start()
            assert calm.wait() == 0, calm.output()
            starts = [e["time"] for e in calm.events("trainer") if e["kind"] == "step.begin"]
            step_s = median(later - earlier for earlier, later in pairwise(starts))
            print(f"undisturbed: {time.time() - calm.began:.0f} s, {step_s:.1f} s a step", flush=True)
            about = what(calm, steps)
            for seed in range(seeds):
                runs.append(run_in(world, f"seed-{seed}", settings))
                rows.append(drill(seed, runs[-1], calm, step_s, steps))
                print(json.dumps(asdict(rows[-1])), flush=True)
                if write:  # after each: a drill that is ended has done what it has done
                    publish(rows, about, where)
        finally:
            for run in runs:
                run.end()
    print(f"\n{table(rows, about['trials'])}")
    return 0 if about["trials"] and all(row.good(about["trials"]) for row in rows) else 1


def what(calm: Run, steps: int) -> dict[str, Any]:
    """What the page says of all seeds."""
    expected = rewards(calm)
    return {
        "steps": steps,
        "victims": ", ".join(VICTIMS),
        "within": ENGINES_WITHIN,
        "trials": len(expected),
        "solved": sum(reward == 1 for reward in expected.values()),
        "numbers": compare.compared(calm.metrics()),
        "tensors": compare.weights(last_checkpoint(calm), last_checkpoint(calm))[1],
    }


def publish(rows: list[Row], about: dict[str, Any], where: dict[str, Any]) -> None:
    seeds = len(rows)
    PAGE.write_text(f"{HEAD.format(seeds=seeds, **about, **where)}\n{table(rows, about['trials'])}\n")
    whole = {"command": f"make drill SEEDS={seeds} WRITE=1", "machine": where, **about, "rows": [asdict(row) for row in rows]}
    PAGE.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


def table(rows: list[Row], trials: int) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells(trials) for row in rows)]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), "--write" in sys.argv[2:]))
