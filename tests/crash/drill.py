"""The kill drill: ``make drill SEEDS=10``. Evaluations on the scripted engine with kills drawn from a seed, beside an undisturbed one.

A seed kills five times (SIGKILL), at phases of trials it draws: engine, gateway and runner, each at least once, and every other seed the
whole tree first; after that the same command goes on. The table says per seed what was killed, what was lost or doubled, whether every
trial has the reward that it has without kills, and the longest way back to useful work. Ends with 1 when a row is not as it should be.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "trials"))
from crashkit import PHASES, Killer, Scene, kill_tree, through
from results import machine

KILLS = 5
SERVICES = ("gateway", "runner", "engine")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "drill.md"
COLUMNS = "| seed | killed | lost | doubled | equal rewards | longest way back | took |"
HEAD = """# The kill drill

Written by `make drill SEEDS={seeds} WRITE=1`.

Commit {commit}, {date}, {cores} cores, {memory_gib} GiB, load {load_before} before the start.

Evaluations of twelve trials on the scripted engine; supervisor, gateway, runner and sandboxes are the real ones. Each seed kills five times
with SIGKILL, at phases of trials it draws. The rewards are compared with those of an undisturbed evaluation. Real engines and trainers are
killed in tests/e2e/test_kills.py.
"""


class Drawn(Killer):
    """Kills another service at each of its phases, as drawn."""

    def __init__(self, scene: Scene, order: list[tuple[str, str]]):
        super().__init__(scene, "", tuple(phase for _, phase in order))
        self._victims = [victim for victim, _ in order]
        self.done: list[str] = []

    @property
    def victim(self) -> str:
        self.done.append(self._victims[len(self.done)])
        return self.done[-1]

    @victim.setter
    def victim(self, _: str) -> None: ...


def rewards(scene: Scene) -> dict[tuple[str, int], float]:
    """Reward by task and sample; a trial that was counted twice would be here once, so doubles are counted apart."""
    return {(r["identity"]["task_hash"], r["identity"]["sample"]): r["reward"] for r in scene.settled() if r["graded"]}


def drill(seed: int, place: Path, undisturbed: dict[tuple[str, int], float]) -> tuple[str, bool]:
    """One row of the table, and whether it is as it should be."""
    draw, scene, began = random.Random(seed), Scene(place), time.monotonic()
    killed = Counter[str]()
    if seed % 2:
        kill_tree(scene, draw.choice(PHASES))
        killed["tree"] += 1
    victims = [*SERVICES, *draw.choices(SERVICES, k=KILLS - killed.total() - len(SERVICES))]
    draw.shuffle(victims)
    killer = Drawn(scene, [(victim, draw.choice(PHASES)) for victim in victims])
    through(scene, killer)
    killed.update(killer.done)
    found = rewards(scene)
    verdicts = Counter((r["identity"]["task_hash"], r["identity"]["sample"]) for r in scene.settled() if r["graded"])
    lost, doubled = len(undisturbed.keys() - found.keys()), sum(count - 1 for count in verdicts.values())
    equal = sum(found.get(key) == reward for key, reward in undisturbed.items())
    scene.check_nothing_left()
    back_s = max(killer.back_s.values(), default=0.0)
    said = ", ".join(f"{count} {name}" for name, count in sorted(killed.items()))
    row = f"| {seed} | {said} | {lost} | {doubled} | {equal} of {len(undisturbed)} | {back_s:.1f} s | {time.monotonic() - began:.0f} s |"
    return row, lost == doubled == 0 and equal == len(undisturbed)


def main(seeds: int, write: bool = False) -> int:
    where = machine()
    with tempfile.TemporaryDirectory(prefix="swerl-drill-") as folder:
        calm = Scene(Path(folder) / "undisturbed")
        calm.carry_out()
        expected, rows = rewards(calm), []
        for seed in range(seeds):
            rows.append(drill(seed, Path(folder) / str(seed), expected))
    table = "\n".join([COLUMNS, "|---" * COLUMNS.count(" | ") + "|---|", *(row for row, _ in rows)])
    print(f"\n{table}")
    if write:
        PAGE.write_text(f"{HEAD.format(seeds=seeds, **where)}\n{table}\n")
    return 0 if len(expected) == 12 and all(good for _, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), "--write" in sys.argv[2:]))
