"""`swerl forecast`: text and data, with the policy's own config.json and with another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from swerl.cli.forecast import forecast
from swerl.errors import SwerlError

PROJECT = Path(__file__).resolve().parents[2]
MOE = PROJECT / "tests" / "forecast" / "shapes" / "qwen3-30b-a3b.json"
CONFIG = ["--config", str(PROJECT / "config.yaml")]


def call(*words: str) -> str:
    done = CliRunner().invoke(forecast, [*CONFIG, *words], standalone_mode=False, catch_exceptions=False)
    return done.output


def test_default_profile_with_another_model():
    text = call("--model-config", str(MOE))
    assert "30.53B parameters, 3.35B active, 128 experts" in text and "64 x 8 = 512" in text and "24,576 B a token and GPU" in text


def test_data_and_the_size_of_a_gpu():
    small, large = (json.loads(call("--model-config", str(MOE), "--json", "--gpu-memory-gb", gb)) for gb in ("80", "141"))
    assert small["engine"]["kv_bytes_per_token"] == 24_576 and small["trials_per_step"] == 512
    assert large["engine"]["kv_tokens"] > small["engine"]["kv_tokens"]


def test_a_trainer_that_does_not_fit_is_said_so():
    whole = ("--model-config", str(MOE), "--set", "training.sp_size=1")
    beyond = "more than a GPU's 80.0 GiB"
    assert beyond in call(*whole) and "it would fit with training.sp_size: 1 -> 2 (~" in call(*whole)
    assert beyond not in call(*whole, "--gpu-memory-gb", "141") and beyond not in call("--model-config", str(MOE))


def test_validations_that_cannot_be_counted_are_said_and_can_be_given():
    text, counted = (
        call("--model-config", str(MOE), "--steps", "75"),
        call("--model-config", str(MOE), "--steps", "75", "--val-tasks", "500"),
    )
    assert "not counted       validations" in text and "not counted" not in counted and "validation" in counted


def test_policy_of_the_profile(site):
    text = call("--profile", "demo-cpu", "--set", f"model.model_path={site.model}", "--set", f"data.data_dir={site.data}")
    assert "25.79k parameters" in text and "at most" in text


def test_no_model():
    with pytest.raises(SwerlError, match="SWERL-P101"):
        call()
