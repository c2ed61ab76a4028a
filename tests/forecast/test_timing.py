"""The forecast's time: rates against recorded measurements, phases by their invariants, advice that is true of the forecast itself."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path
from random import Random
from statistics import mean

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.config import load
from swerl.facts.memory import GIB, Plan, forecast
from swerl.facts.plan import plan_of
from swerl.facts.shape import read_shape
from swerl.forecast.advice import advise, fitting
from swerl.forecast.outlook import outlook
from swerl.forecast.rates import CPU, H100, assumed_trials, measured_trial, rates_for
from swerl.forecast.text import render
from swerl.forecast.timing import _at, _quantile, decode_s, forward_s, step_time

PROJECT = Path(__file__).resolve().parents[2]
SHAPES = Path(__file__).parent / "shapes"
RECORDED = orjson.loads((PROJECT / "docs" / "results" / "forecast.json").read_bytes())
SMALL = read_shape(SHAPES / "qwen3-0.6b.json")
MOE = read_shape(SHAPES / "qwen3-30b-a3b.json")
EIGHT = Plan(
    gpus=8,
    gpu_memory_bytes=80 * GIB,
    gen_tp=4,
    gpu_memory_utilization=0.85,
    rollout_dtype="bfloat16",
    max_num_seqs=96,
    max_model_length=128_000,
    max_batched_tokens=8192,
    kv_cache_bytes=None,
    prompts_per_step=64,
    samples_per_prompt=8,
    mini_batch_prompts=64,
    prompt_tokens=40_000,
    response_tokens=68_000,
    tokens_per_gpu=27_000,
    sequence_parallel=4,
    param_dtype="bfloat16",
    gradient_checkpointing=True,
    flash_attention=True,
    entropy=False,
    steps=75,
    save_every=5,
    keep_checkpoints=3,
    save_hf=False,
    live_trials=64,
    actor_offload=True,
    max_turns=100,
    trial_limit_s=4500.0,
    test_every=5,
    val_tasks=500,
)


def test_decoding_on_an_h100_is_as_fast_as_it_was_measured():
    """256 sequences of 1,024 + 256 tokens made 14.8k tokens/s, prefill included; decoding alone is somewhat faster."""
    recorded = RECORDED["h100-qwen3-0.6b"]
    foreseen = forecast(SMALL, replace(EIGHT, gpus=1, gen_tp=1, prompt_tokens=1024, response_tokens=256))
    rate = 256 / decode_s(foreseen, H100, 1024 + 128, 256)
    assert recorded["tokens_per_s"] * 0.85 < rate < recorded["tokens_per_s"] * 1.4


def on_a_card() -> list[dict]:
    records = orjson.loads((PROJECT / "docs" / "results" / "gpu.json").read_bytes())["records"]
    return [
        {**figure, "shape": record["shape"]} for record in records for figure in record["figures"] if figure["what"].startswith("engine")
    ]


@pytest.mark.parametrize("figure", on_a_card(), ids=lambda f: f"{f['shape']}: {f['what']}, {f['case']}")
def test_the_trainer_on_one_h200_as_it_was_measured(figure):
    """Constants are fitted on the 0.6B shape's figures; the 4B ones check them. Memory within a tenth, time within a quarter."""
    shape = {"0.6b": SMALL, "4b": read_shape(SHAPES / "qwen3-4b.json")}[figure["shape"]]
    sequences, length = (int(word.removesuffix("k")) for word in figure["case"].split()[0].split("x"))
    packed = int(figure["case"].split(" in ")[1].split("k")[0]) if " in " in figure["case"] else length
    plan = replace(
        EIGHT,
        gpus=1,
        gen_tp=1,
        sequence_parallel=1,
        gpu_memory_bytes=141 * 10**9,
        tokens_per_gpu=packed * 1024,
        gradient_checkpointing="no checkpointing" not in figure["case"],
    )
    assert figure["tokens"] == sequences * length * 1024
    layers_s, head_s = forward_s(shape, plan, rates_for(plan), length * 1024)
    foreseen = forecast(shape, plan).trainer
    seconds = figure["tokens"] / figure["rate"]
    if "log-prob" in figure["what"]:
        assert figure["tokens"] * (layers_s + head_s) == pytest.approx(seconds, rel=0.25)
        return
    passes = 4 if plan.gradient_checkpointing else 3
    assert figure["tokens"] * (passes * layers_s + 3 * head_s) == pytest.approx(seconds, rel=0.25)
    assert foreseen.peak_bytes / GIB == pytest.approx(figure["peak_gib"], rel=0.10)


@pytest.mark.parametrize(
    ("profile", "shape", "gpu_gib"),
    [
        (None, "qwen3-30b-a3b", 80),
        ("qwen3-4b-1gpu", "qwen3-4b", 139),
        ("qwen3-8b-8gpu", "qwen3-8b", 80),
        ("qwen3-8b-lora-1gpu", "qwen3-8b", 139),
    ],
)
def test_a_shipped_profile_leaves_five_percent_of_its_card(profile, shape, gpu_gib):
    config = load(PROJECT / "config.yaml", profile, {"model.model_path": "/policy", "data.data_dir": "/indexes"})
    foreseen = forecast(read_shape(SHAPES / f"{shape}.json"), plan_of(config, steps=None, gpu_memory_bytes=gpu_gib * GIB))
    assert foreseen.trainer.peak_bytes <= 0.95 * gpu_gib * GIB
    assert foreseen.engine.full_sequences >= 2


def test_kv_capacity_within_one_percent_of_what_was_measured():
    recorded = RECORDED["h100-qwen3-0.6b"]
    plan = replace(EIGHT, gpus=1, gen_tp=1, gpu_memory_bytes=int(recorded["memory_gib"] * GIB), max_num_seqs=256)
    engine = forecast(SMALL, replace(plan, gpu_memory_utilization=recorded["gpu_memory_utilization"])).engine
    assert engine.kv_tokens == pytest.approx(recorded["kv_tokens"], rel=0.01)


def test_the_slowest_of_many_is_the_mean_of_simulated_maxima():
    dice = Random(7)
    for spread, count in ((0.6, 512), (0.4, 64), (0.3, 16)):
        drawn = mean(max(exp(dice.gauss(0, spread)) for _ in range(count)) for _ in range(2000)) / exp(spread**2 / 2)
        assert _at(1.0, spread, _quantile(count)) == pytest.approx(drawn, rel=0.08)


def test_a_recorded_demonstration():
    """Phases of the demonstration's steps, foreseen with its trials as they were: within a third; memory within a tenth."""
    recorded = RECORDED["demo-cpu"]
    shape = read_shape(SHAPES / "demo.json")
    plan = Plan(**{**recorded["plan"], "test_every": -1})
    foreseen = forecast(shape, plan)
    assert foreseen.trainer_process_bytes / GIB == pytest.approx(recorded["trainer_memory_gib"], rel=0.10)
    assert foreseen.engine_process_bytes / GIB == pytest.approx(recorded["engine_memory_gib"], rel=0.10)
    assert foreseen.disk.save_bytes == pytest.approx(recorded["checkpoint_state_bytes"], rel=0.01)
    trial = measured_trial([recorded["row"]], [], assumed_trials(plan)[1])
    step = step_time(foreseen, CPU, trial)
    assert step.phases["gen"] == pytest.approx(recorded["row"]["timing_s/gen"], rel=0.35)
    assert step.step_s == pytest.approx(recorded["row"]["timing_s/step"], rel=0.35)


def test_the_default_profile_is_held_up_by_its_slots_and_says_what_helps():
    foreseen = forecast(MOE, replace(EIGHT, live_trials=16))
    whole = outlook(foreseen, price=2.5)
    assert whole.expected.step.bottleneck == "gen" and whole.expected.step.limit == "harbor_runtime.num_workers"
    assert whole.low.wall_s < whole.expected.wall_s < whole.high.wall_s
    assert whole.expected.gpu_hours == pytest.approx(8 * whole.expected.wall_s / 3600)
    assert len(whole.advice) == 3 and "harbor_runtime.num_workers" in {one.key for one in whole.advice}
    text = render(foreseen, whole)
    for word in ("a step", "trials an hour", "GPU hours", "bottleneck", "would help most", "at 2.5 a GPU hour", "host memory", "graphs"):
        assert word in text


def test_advice_is_what_the_forecast_says_of_the_changed_plan():
    foreseen = forecast(MOE, replace(EIGHT, live_trials=16))
    trial = assumed_trials(foreseen.plan)[1]
    before = step_time(foreseen, H100, trial).step_s
    for one in advise(foreseen, H100, trial):
        assert one.step_s < before and one.saved == pytest.approx((before - one.step_s) / before)
    workers = next(one for one in advise(foreseen, H100, trial, count=9) if one.key == "harbor_runtime.num_workers")
    changed = forecast(MOE, replace(foreseen.plan, live_trials=int(workers.then)))
    assert step_time(changed, H100, trial).step_s == pytest.approx(workers.step_s)


def test_a_setting_that_does_not_fit_is_not_advised():
    foreseen = forecast(MOE, replace(EIGHT, gpu_memory_bytes=84 * GIB))
    keys = {one.key for one in advise(foreseen, H100, assumed_trials(foreseen.plan)[1], count=20)}
    assert "training.gradient_checkpointing" not in keys, "activations of 48 layers do not fit"


def test_a_queue_that_is_full_stays_finite_and_its_engine_sets_the_pace():
    """As many slots as trials, on caches that hold a fraction of them: more slots no longer help, and never make a step endless."""
    trial = assumed_trials(EIGHT)[1]
    steps = {n: step_time(forecast(MOE, replace(EIGHT, live_trials=n)), H100, trial) for n in (1, 16, 64, 128, 256, 512)}
    assert steps[1].step_s > 10 * steps[16].step_s / 2 > steps[64].step_s
    assert steps[512].limit == "the engine's cache" and steps[16].limit == "harbor_runtime.num_workers"
    assert all(step.step_s < 3 * steps[64].step_s for n, step in steps.items() if n >= 64)
    full = forecast(MOE, replace(EIGHT, live_trials=512))
    room = full.engine.kv_tokens / (trial.prompt_tokens + trial.response_tokens)
    assert steps[512].in_engine == pytest.approx(room)


def test_an_asynchronous_run_saves_the_slowest_trials_and_no_more():
    """Its engine sleeps during an update, as a synchronous one's does: what it saves is the wait for a batch's last trial."""
    trial = assumed_trials(EIGHT)[1]
    sync, other = (step_time(forecast(MOE, replace(EIGHT, asynchronous=a)), H100, trial) for a in (False, True))
    assert 0 < sync.step_s - other.step_s <= sync.slowest_s
    assert other.phases["gen"] >= 512 / EIGHT.live_trials * other.trial_s * 0.999


def test_attention_of_a_mixture_is_computed_as_a_dense_policys():
    """Long trials cost a mixture their attention at flash attention's rate, not at its experts'."""
    flash, plain = (step_time(forecast(MOE, replace(EIGHT, flash_attention=f)), H100, assumed_trials(EIGHT)[1]) for f in (True, False))
    assert flash.phases["old_log_prob"] < 0.5 * plain.phases["old_log_prob"]


def test_a_trainer_that_does_not_fit_is_told_what_would():
    """Each setting is tried on the forecast; the first changes least."""
    whole = replace(EIGHT, sequence_parallel=1, tokens_per_gpu=108_000)
    foreseen = forecast(MOE, whole)
    assert foreseen.trainer.peak_bytes > 80 * GIB
    found = {one.key: one for one in fitting(foreseen)}
    assert next(iter(found)) == "training.sp_size" and found["training.sp_size"].then == "2" and "infrastructure.nnodes" in found
    changed = forecast(MOE, replace(EIGHT, sequence_parallel=2, tokens_per_gpu=54_000))
    assert found["training.sp_size"].peak_bytes == changed.trainer.peak_bytes <= 80 * GIB
    assert fitting(forecast(MOE, replace(whole, gpu_memory_bytes=141 * GIB))) == []
    assert fitting(forecast(MOE, replace(whole, gpu_memory_bytes=50 * GIB)))[0].key == "infrastructure.nnodes"
    assert forecast(MOE, EIGHT).trainer.peak_bytes <= 76 * GIB, "the shipped profile leaves five percent of an 80 GiB card"
    small = replace(EIGHT, gpus=1, gen_tp=1, sequence_parallel=1, prompt_tokens=1000, response_tokens=1000)
    one = replace(small, dynamic_batches=False, tokens_per_gpu=512 * 2000)
    assert next(f.key for f in fitting(forecast(SMALL, one))) == "training.micro_batch_size_per_gpu"


@given(
    workers=st.sampled_from([1, 8, 16, 64, 512]),
    prompts=st.integers(1, 128),
    tensor_parallel=st.sampled_from([1, 2, 4, 8]),
    asynchronous=st.booleans(),
)
def test_phases_are_whole_and_monotone(workers: int, prompts: int, tensor_parallel: int, asynchronous: bool):
    plan = replace(EIGHT, live_trials=workers, prompts_per_step=prompts, gen_tp=tensor_parallel, asynchronous=asynchronous)
    trial = assumed_trials(plan)[1]
    here = step_time(forecast(MOE, plan), H100, trial)
    assert here.step_s == pytest.approx(sum(here.phases.values())) and all(seconds >= 0 for seconds in here.phases.values())
    more = step_time(forecast(MOE, replace(plan, prompts_per_step=prompts + 8)), H100, trial)
    assert more.step_s > here.step_s * 0.999
    assert here.in_engine <= plan.max_num_seqs + 1e-6
    assert not asynchronous or here.step_s <= step_time(forecast(MOE, replace(plan, asynchronous=False)), H100, trial).step_s + 1e-6


def test_a_measured_trial_replaces_the_assumed_one():
    assumed = assumed_trials(EIGHT)[1]
    row = {"response_length/mean": 5000.0, "num_turns/mean": 10.0, "swerl/trials/agent_s/mean": 300.0, "swerl/trials/setup_s/mean": 4.0}
    trial = measured_trial([row, row], [float(10 * n) for n in range(1, 11)], assumed)
    assert (trial.source, trial.turns, trial.outside_s, trial.setup_s) == ("measured", 10.0, 30.0, 4.0)
    assert trial.verifier_s == assumed.verifier_s and 0.4 < trial.spread < 0.9
    step = step_time(forecast(MOE, EIGHT), rates_for(EIGHT), trial)
    assert step.trial_s == pytest.approx(4.0 + 300.0 + assumed.verifier_s)
