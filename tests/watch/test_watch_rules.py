"""Every alarm is raised by the fault it is for, planted in the stream, and by nothing that a healthy run writes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from swerl.watch import RULES


def test_a_healthy_run_raises_nothing(stream):
    for step in range(1, 13):
        stream.trained(**{"actor/entropy": 0.4 - 0.01 * step})
        stream.sample(gateway={"answers": True, "prompt_tokens": 300_000 * step, "cached_tokens": 240_000 * step})
        assert stream.alarms() == []


def test_a_recorded_run_raises_nothing(stream_with):
    """The metrics of a real demonstration run (12 steps on 2 CPU cores), the names that rules read."""
    stream = stream_with({})
    rows = [orjson.loads(line) for line in Path(__file__).with_name("recorded_demo.jsonl").read_bytes().splitlines()]
    assert len(rows) == 13
    for row in rows:
        stream.watchdog.take([], [row])
        assert stream.watchdog.look(stream.now) == []


PLANTED = {  # what two steps of a run that is ill in one way have in their rows
    "SWERL-W101": {"training/rollout_actor_probs_pearson_corr": 0.75},
    "SWERL-W102": {"rollout_corr/kl": -0.2},
    "SWERL-W103": {"actor/lr": 0.0},
    "SWERL-W104": {"actor/grad_norm": None},  # as JSON has it when it was NaN
    "SWERL-W105": {"actor/grad_norm": 2e4},
    "SWERL-W106": {"actor/entropy": 0.01},
    "SWERL-W107": {"rollout_corr/rollout_is_eff_sample_size": 0.06},
    "SWERL-W108": {"num_turns/mean": 1.02},
    "SWERL-W110": {"swerl/compile/count": 9.0, "swerl/compile/seconds": 31.0},
    "SWERL-W201": {"swerl/trials/in_loss": 50, "swerl/trials/outcome/agent_timeout": 14, "swerl/trials/outcome/completed": 50},
}


@pytest.mark.parametrize("id", PLANTED)
def test_what_a_step_says(stream, id):
    for _ in range(4):
        stream.trained()
    assert stream.alarms() == []
    stream.trained(**PLANTED[id])
    assert stream.alarms() == [], "one bad step is not yet an alarm"
    stream.trained(**PLANTED[id])
    assert stream.alarms() == [id]
    alarm = stream.seen[0]
    assert alarm.evidence and alarm.remedy and alarm.step == stream.step
    stream.trained(**PLANTED[id])
    assert stream.alarms() == [], "it is said once"
    stream.trained()
    assert stream.alarms() == [] and stream.watchdog.cleared == [id]


def test_the_first_two_steps_of_a_start_may_compile(stream):
    """Of a start that goes on from a checkpoint too."""
    for restored in (0, 2):
        stream.emit("trainer", "trainer.start", restored_step=restored)
        for _ in range(2):
            stream.trained(**{"swerl/compile/count": 40.0, "swerl/compile/seconds": 50.0})
            assert stream.alarms() == []


def test_a_zero_gradient_is_one_too(stream):
    stream.trained(**{"actor/grad_norm": 0.0})
    stream.trained(**{"actor/grad_norm": 0.0})
    assert stream.alarms() == ["SWERL-W104"]


def test_a_history_that_is_condensed_now_and_then_is_no_alarm(stream):
    """A compaction in the middle, or a sub-agent, leaves half of the turns on the main path; few turns cannot be cut much."""
    for turns, on_path in ((40, 18.0), (40, 20.0), (3, 1.3), (3, 1.3)):
        stream.trained(turns=turns, **{"num_turns/mean": on_path})
    assert stream.all_ids() == set()


def test_tail_killed_trials_are_not_invalid(stream):
    for _ in range(3):
        stream.trained(**{"swerl/trials/in_loss": 56, "swerl/trials/outcome/tail_killed": 8})
    assert stream.alarms() == []


def test_the_last_step_of_a_schedule_and_its_warm_up_may_have_rate_zero(stream_with):
    stream = stream_with({"algorithm.lr_warmup_steps": 3})
    stream.boot()
    for _ in range(4):
        stream.trained(**{"actor/lr": 0.0})
    assert stream.alarms() == []
    stream.step = 99
    stream.trained(**{"actor/lr": 0.0})
    assert stream.alarms() == []


@pytest.mark.parametrize(("reward", "words"), [(0.0, "8 all 0, 0 all 1"), (1.0, "0 all 0, 8 all 1")])
def test_groups_that_teach_nothing(stream, reward, words):
    stream.trained(rewards=(reward,))
    stream.trained(rewards=(reward,))
    assert stream.alarms() == ["SWERL-W202"] and words in stream.seen[0].message


def test_a_validation_that_was_cut(stream):
    stream.trained(**{"swerl/val/coverage": 0.34, "swerl/val/resolve_rate": 0.2})
    assert stream.alarms() == ["SWERL-W203"], "a validation is one event: no second step is waited for"
    stream.trained()
    assert stream.watchdog.cleared == [], "a row without a validation does not make it whole"
    stream.trained(**{"swerl/val/coverage": 1.0})
    assert stream.alarms() == [] and stream.watchdog.cleared == ["SWERL-W203"]


def test_sandboxes_that_start_slower_and_slower(stream):
    stream.trained(setup_s=30.0)
    stream.trained(setup_s=63.0)
    assert stream.alarms() == []
    stream.trained(setup_s=96.0)
    assert stream.alarms() == ["SWERL-W204"]


def test_short_starts_may_grow(stream):
    for setup_s in (0.1, 0.4, 1.0):
        stream.trained(setup_s=setup_s)
    assert stream.alarms() == []


def test_a_replica_is_missing(stream_with):
    stream = stream_with({})
    stream.boot(replicas=1)
    assert stream.alarms() == ["SWERL-W301"] and "1 of 2" in stream.seen[0].message


def gpus(*busy: int) -> list[dict[str, int]]:
    return [{"busy_percent": b, "memory_mb": 70000, "memory_total_mb": 81559} for b in busy]


def test_half_of_the_gpus_stay_idle(stream):
    stream.begin()
    stream.trial(1, 1, settle=False)
    stream.pass_time(20, gpus=gpus(97, 95, 96, 99, 0, 0, 0, 0))
    assert stream.all_ids() == {"SWERL-W301"} and "4, 5, 6, 7" in stream.raised[0].message


def test_gpus_idle_while_trials_wait(stream):
    stream.begin()
    stream.trial(1, 1, settle=False)
    stream.pass_time(20, gpus=gpus(*[0] * 8))
    assert stream.all_ids() == {"SWERL-W303"}
    assert stream.raised[0].evidence["oldest"] == "train-1-1-1"


def test_gpus_may_be_idle_while_the_engine_is_away(stream):
    stream.begin()
    stream.trial(1, 1, settle=False)
    stream.emit("trainer", "engine.paused", step=1, reason="update")
    stream.pass_time(40, gpus=gpus(*[0] * 8))
    assert stream.all_ids() == set()


def test_the_prefix_cache_is_no_longer_hit(stream):
    prompt = cached = 0
    for share in (0.2, 0.85, 0.9, 0.88, 0.3, 0.25):
        stream.trained()
        for _ in range(3):
            prompt, cached = prompt + 100_000, cached + int(share * 100_000)
            stream.sample(gateway={"answers": True, "prompt_tokens": prompt, "cached_tokens": cached})
            stream.alarms()
    assert stream.all_ids() == {"SWERL-W302"}


def test_a_gateway_that_starts_again_counts_anew(stream):
    for begin in (0, 0):
        for window in range(1, 4):
            stream.sample(gateway={"answers": True, "prompt_tokens": begin + window * 250_000, "cached_tokens": window * 200_000})
    assert stream.all_ids() == set()


def test_the_disk_fills(stream):
    stream.sample(disk_free_bytes=13 * 10**9)
    assert stream.alarms() == []
    stream.sample(disk_free_bytes=11 * 10**9)
    assert stream.alarms() == ["SWERL-W401"], "a checkpoint of 10 GB and a reserve of 2 do not fit"
    assert stream.seen[0].action == "pause"


def test_shared_memory_fills(stream):
    stream.sample(shm_free_bytes=10**8)
    assert stream.alarms() == ["SWERL-W401"] and "/dev/shm" in stream.seen[0].message


def test_a_service_that_lives_and_does_not_answer(stream):
    stream.begin()
    stream.pass_time(6, gateway={"answers": False}, runner={"answers": True})
    assert stream.all_ids() == {"SWERL-W402"} and "gateway" in stream.raised[0].message


def test_a_node_is_lost(stream):
    stream.emit("cluster", "cluster.joined", rank=1, address="10.0.0.2")
    assert stream.alarms() == []
    stream.emit("cluster", "cluster.lost", rank=1)
    assert stream.alarms() == ["SWERL-W403"] and stream.seen[0].action == "stop"


def test_no_trial_finishes(stream):
    stream.begin()
    stream.trial(1, 1, 1.0)
    stream.trial(1, 2, settle=False)
    stream.pass_time(stream.terms.watch.no_trial_min - 1, runner={"answers": True, "running": 1, "queued": 0})
    assert stream.all_ids() == set()
    stream.pass_time(2)
    assert stream.all_ids() == {"SWERL-W501"}
    assert stream.raised[0].action == "stop" and "train-1-2-1" in stream.raised[0].message


def test_the_time_the_engine_is_away_is_no_hang(stream):
    stream.begin()
    stream.trial(1, 1, settle=False)
    stream.pass_time(60)
    stream.emit("trainer", "engine.paused", step=1, reason="update")
    stream.pass_time(60)
    stream.emit("trainer", "engine.resumed", step=1)
    stream.pass_time(60)
    assert stream.all_ids() == set()


def test_the_replay_buffer_polls_for_ever(stream):
    stream.begin()
    for sample in range(8):
        stream.trial(1, sample, 1.0)
    stream.pass_time(16, runner={"answers": True, "running": 0, "queued": 0})
    assert stream.all_ids() == {"SWERL-W502"}
    assert stream.raised[0].action == "stop" and "replay buffer polls for step 1" in stream.raised[0].message


def test_trials_that_are_queued_are_not_nobody(stream):
    stream.begin()
    stream.pass_time(30, runner={"answers": True, "running": 0, "queued": 64})
    assert stream.all_ids() == set()


def test_trials_that_are_queued_for_ever_are_a_hang_too(stream):
    stream.begin()
    stream.pass_time(stream.terms.watch.no_trial_min + 1, runner={"answers": True, "running": 0, "queued": 64})
    assert stream.all_ids() == {"SWERL-W502"} and "64 trials wait in the runner and none has run" in stream.raised[0].message


def test_a_validation_that_hangs(stream):
    stream.emit("trainer", "validation.begin", step=0)
    stream.pass_time(16)
    assert stream.all_ids() == {"SWERL-W502"} and "validation" in stream.raised[0].message


def test_an_engine_that_does_not_come_up(stream_with):
    stream = stream_with({})
    stream.emit("trainer", "trainer.start", restored_step=0)
    stream.pass_time(29)
    assert stream.all_ids() == set()
    stream.pass_time(2)
    assert stream.all_ids() == {"SWERL-W503"}


def test_a_trainer_that_says_nothing_from_its_start(stream_with):
    """Imports from a file system that is gone: the process lives, and its first event never comes."""
    stream = stream_with({})
    stream.emit("supervisor", "process.started", process="trainer", pid=1)
    stream.pass_time(31)
    assert stream.all_ids() == {"SWERL-W503"}


def test_a_dead_engine_and_a_silent_boot_are_alarms_until_an_engine_is_up(stream):
    stream.begin()
    stream.pass_time(1)
    stream.emit("bridge", "engine.died", replica="10.0.0.2:4711", cause="its server says that the engine is dead", in_flight=8)
    stream.pass_time(1)
    assert stream.all_ids() == {"SWERL-W505"} and "10.0.0.2:4711: its server" in stream.raised[0].message
    stream.emit("supervisor", "process.started", process="trainer", pid=2)
    stream.emit("trainer", "trainer.start", restored_step=0)
    stream.emit("supervisor", "boot.silent", quiet_s=150, lines=["one", "Waiting for a worker"], stacks="logs/stacks-1.txt")
    stream.pass_time(1)
    assert stream.all_ids() == {"SWERL-W505", "SWERL-W506"}
    assert "Waiting for a worker" in stream.raised[1].message and "logs/stacks-1.txt" in stream.raised[1].message
    assert not stream.watchdog.cleared
    stream.emit("trainer", "engine.ready", step=0)
    stream.pass_time(1)
    assert set(stream.watchdog.cleared) == {"SWERL-W505", "SWERL-W506"}


def test_a_trainer_that_does_not_end(stream):
    """Everything is trained and saved, and a tracker's last upload waits for ever."""
    stream.emit("trainer", "trainer.end", how="completed")
    stream.pass_time(119)
    assert stream.all_ids() == set()
    stream.pass_time(2)
    assert stream.all_ids() == {"SWERL-W504"} and "the trainer's end" in stream.raised[0].message
    stream.emit("supervisor", "process.ended", process="trainer", pid=1, how="exit code 0")
    stream.pass_time(130)
    assert stream.all_ids() == {"SWERL-W504"}


def test_an_update_that_does_not_end(stream):
    stream.begin()
    stream.emit("trainer", "engine.paused", step=1, reason="update")
    stream.pass_time(121)
    assert stream.all_ids() == {"SWERL-W504"}


def test_a_machine_that_slept_did_not_hang(stream):
    stream.begin()
    stream.trial(1, 1, settle=False)
    stream.pass_time(1)
    stream.now += 12 * 3600
    stream.pass_time(5, gpus=gpus(*[0] * 8))
    assert stream.all_ids() == set()


def test_actions_and_thresholds_are_the_configurations(stream_with):
    stream = stream_with({"watch.steps": 1, "watch.turns_min": 5.0, "watch.actions": {"SWERL-W108": "stop", "SWERL-W101": "off"}})
    stream.boot()
    stream.trained(**{"num_turns/mean": 4.0, "training/rollout_actor_probs_pearson_corr": 0.1})
    stream.feed.poll()
    assert [(a.id, a.action) for a in stream.watchdog.look(stream.now)] == [("SWERL-W108", "stop")]


def test_the_past_is_compared_with_and_not_alarmed_about(stream):
    from swerl.watch import Watchdog

    rows = [(step, {"actor/entropy": 0.4, "actor/grad_norm": 1.0, "actor/lr": 0.0}) for step in range(1, 6)]
    resumed = Watchdog(stream.terms, rows, now=stream.now)
    assert resumed.look(stream.now) == []
    for step in (6, 7):
        resumed.take([], [{"step": step, "lineage": "L2", "data": {"actor/entropy": 0.01, "actor/grad_norm": 1.0, "actor/lr": 1e-6}}])
    assert [alarm.id for alarm in resumed.look(stream.now)] == ["SWERL-W106"]


def test_ids_are_unique_and_every_rule_says_what_to_do():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.title and rule.asks and rule.remedy for rule in RULES)
