"""Every threshold of ``watch`` moves the alarm that it is said to move: one stream, two values, and only one of them raises it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from swerl.config.schema import keys

Scenario = Callable[[Any], None]
GPUS_IDLE = [{"busy_percent": 0, "memory_mb": 70000, "memory_total_mb": 81559}] * 8


def steps(**metrics: object) -> Scenario:
    """Four healthy steps, then three with these numbers."""

    def play(stream: Any) -> None:
        for number in range(7):
            stream.trained(**(metrics if number > 3 else {}))

    return play


def each(values: tuple[float, ...], name: str) -> Scenario:
    def play(stream: Any) -> None:
        for value in values:
            stream.trained(**{name: value})

    return play


def hits(stream: Any) -> None:
    prompt = cached = 0
    for share in (0.2, 0.85, 0.9, 0.88, 0.45, 0.45):
        stream.trained()
        for _ in range(3):
            prompt, cached = prompt + 100_000, cached + int(share * 100_000)
            stream.sample(gateway={"answers": True, "prompt_tokens": prompt, "cached_tokens": cached})
            stream.alarms()


def waiting(minutes: float, trials: int = 0, settle: bool = False, **fields: object) -> Scenario:
    def play(stream: Any) -> None:
        stream.begin()
        for sample in range(trials):
            stream.trial(1, sample, 1.0, settle=settle)
        stream.pass_time(minutes, **fields)

    return play


def booting(stream: Any) -> None:
    stream.emit("trainer", "trainer.start", restored_step=0)
    stream.pass_time(30)


def updating(stream: Any) -> None:
    stream.begin()
    stream.emit("trainer", "engine.paused", step=1, reason="update")
    stream.pass_time(30)


# key -> (scenario, a value that raises the alarm, one that does not, the alarm)
MOVES: dict[str, tuple[Scenario, float, float, str]] = {
    "watch.steps": (steps(**{"rollout_corr/kl": -0.2}), 2, 9, "SWERL-W102"),
    "watch.correlation_min": (steps(**{"training/rollout_actor_probs_pearson_corr": 0.8}), 0.9, 0.5, "SWERL-W101"),
    "watch.rollout_kl_max": (steps(**{"rollout_corr/kl": -0.2}), 0.1, 0.9, "SWERL-W102"),
    "watch.grad_norm_max": (steps(**{"actor/grad_norm": 50.0}), 20.0, 90.0, "SWERL-W105"),
    "watch.entropy_min_share": (steps(**{"actor/entropy": 0.2}), 0.9, 0.1, "SWERL-W106"),
    "watch.ess_min": (steps(**{"rollout_corr/rollout_is_eff_sample_size": 0.4}), 0.6, 0.2, "SWERL-W107"),
    "watch.turns_min": (steps(**{"num_turns/mean": 4.0}), 6.0, 2.0, "SWERL-W108"),
    "watch.history_min_share": (steps(turns=20, **{"num_turns/mean": 6.0}), 0.5, 0.1, "SWERL-W109"),
    "watch.invalid_ratio_max": (steps(**{"swerl/trials/in_loss": 48}), 0.1, 0.5, "SWERL-W201"),
    "watch.flat_groups_max": (steps(rewards=(1.0,)), 0.5, 1.0, "SWERL-W202"),
    "watch.coverage_min": (steps(**{"swerl/val/coverage": 0.7}), 0.9, 0.5, "SWERL-W203"),
    "watch.setup_drift_max": (each((30.0, 60.0, 90.0), "setup_s"), 2.0, 9.0, "SWERL-W204"),
    "watch.prefix_hit_min_share": (hits, 0.9, 0.1, "SWERL-W302"),
    "watch.gpu_idle_min": (waiting(20, trials=1, gpus=GPUS_IDLE), 10.0, 60.0, "SWERL-W303"),
    "watch.disk_free_gb": (lambda stream: stream.sample(disk_free_bytes=20 * 10**9), 30.0, 5.0, "SWERL-W401"),
    "watch.no_trial_min": (waiting(20, trials=1, runner={"answers": True, "running": 1, "queued": 0}), 10.0, 60.0, "SWERL-W501"),
    "watch.idle_min": (waiting(20, trials=8, settle=True, runner={"answers": True, "running": 0, "queued": 0}), 10.0, 60.0, "SWERL-W502"),
    "watch.boot_min": (booting, 10.0, 60.0, "SWERL-W503"),
    "watch.phase_min": (updating, 10.0, 60.0, "SWERL-W504"),
}
ELSEWHERE = {"watch.actions": "test_watch_rules", "watch.sample_sec": "below"}


def test_every_threshold_is_here():
    assert MOVES.keys() | ELSEWHERE.keys() == {key.name for key in keys().values() if key.name.startswith("watch.")}


@pytest.mark.parametrize("key", MOVES)
def test_the_threshold_moves_its_alarm(stream_with, tmp_path, key: str):
    scenario, raises, silent, alarm = MOVES[key]
    found = []
    for number, value in enumerate((raises, silent)):
        stream = stream_with({key: value}, root=tmp_path / str(number))
        if scenario is not booting:
            stream.boot(replicas=2)
        scenario(stream)
        found.append(alarm in stream.all_ids())
    assert found == [True, False]


def test_samples_are_taken_as_often_as_the_key_says(stream_with, monkeypatch):
    from swerl.watch import sample as room

    monkeypatch.setattr(room, "sample", lambda run: {})
    taken = {}
    for every_s in (5.0, 20.0):
        stream = stream_with({"watch.sample_sec": every_s})
        found: list[str] = []
        sampler = room.Sampler(stream.run, stream.terms, lambda kind, found=found: found.append(kind))
        for now in range(60):
            sampler.tick(float(now))
            sampler._thread.join(10)
        taken[every_s] = len(found)
    assert taken == {5.0: 12, 20.0: 3}
