"""Automatic values and paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from swerl.config import load
from swerl.config.resolve import AUTO
from swerl.config.schema import PROJECT_ROOT, keys

NO_ENV: dict[str, str] = {}


def resolved(write, text: str = "", **sets):
    return load(write(text), overrides={k.replace("__", "."): v for k, v in sets.items()}, env=NO_ENV)


def test_each_key_said_to_be_automatic_has_a_rule_or_a_reader():
    """Kubeconfig is looked for where the trials run; everything else is decided here."""
    assert {k.name for k in keys().values() if k.auto} == set(AUTO) | {"k8s.kubeconfig"}


def test_relative_paths_start_at_the_file(write, tmp_path):
    config = resolved(write, model__model_path="models/m", experiment__runs_dir="../runs", model__chat_template="~/t.jinja")
    assert config.model.model_path == tmp_path / "models/m"
    assert config.experiment.runs_dir == tmp_path.parent / "runs"
    assert config.model.chat_template == Path.home() / "t.jinja"


def test_indexes_lie_in_the_data_directory(write):
    config = resolved(write, data__data_dir="/d", data__train_index="a.parquet", data__val_index="/e/b.parquet")
    assert (config.data.train_index, config.data.val_index) == (Path("/d/a.parquet"), Path("/e/b.parquet"))


def test_the_run_directory_follows_the_name(write, tmp_path):
    config = resolved(write, experiment__exp_name="mine")
    assert config.run_dir == tmp_path / "runs" / "mine"
    assert config.experiment.trials_dir == config.run_dir / "trials" / "swe-lego-live-rl" / "mine"
    assert config.harbor_runtime.sandbox.work_dir == config.run_dir / "sandboxes"


def test_the_name_of_a_run_never_holds_the_time(write):
    assert resolved(write).experiment.exp_name == resolved(write).experiment.exp_name == "claude-code-sync-1n"


def test_environments_belong_to_the_project(write):
    config = resolved(write)
    assert config.environment.venv_path == PROJECT_ROOT / ".venv/train"
    assert config.environment.trials_venv_path == PROJECT_ROOT / ".venv/trials"
    assert config.environment.requirements == PROJECT_ROOT / "uv.lock"


@pytest.mark.parametrize(
    ("sets", "name", "value"),
    [
        ({"training__use_remove_padding": "true"}, "attention", "flash_attention_4"),
        ({"training__use_remove_padding": "false"}, "attention", "sdpa"),
        ({"training__use_remove_padding": "false", "training__attention": "eager"}, "attention", "eager"),
        (
            {"training__max_prompt_length": "100", "training__max_response_length": "101", "training__sp_size": "2"},
            "max_token_len_per_gpu",
            101,
        ),
        ({"training__max_token_len_per_gpu": "500"}, "max_token_len_per_gpu", 500),
        ({"training__micro_batch_size_per_gpu": "3"}, "log_prob_micro_batch_size_per_gpu", 6),
    ],
)
def test_training_values(write, sets, name, value):
    assert getattr(resolved(write, **sets).training, name) == value


@pytest.mark.parametrize(
    ("sets", "value"),
    [
        ({}, 8192),
        ({"infrastructure__device": "cpu"}, 4096),
        ({"vllm__enable_chunked_prefill": "false"}, 128000),
        ({"vllm__max_num_batched_tokens": "1024"}, 1024),
    ],
)
def test_batched_tokens(write, sets, value):
    assert resolved(write, **sets).vllm.max_num_batched_tokens == value


def test_device_decides_what_ray_and_the_engine_are_told(write):
    cpu, cuda = resolved(write, infrastructure__device="cpu"), resolved(write)
    assert (cpu.infrastructure.ray_num_cpus, cpu.infrastructure.object_store_mb, cpu.vllm.block_size) == (16, 500, 16)
    assert (cuda.infrastructure.ray_num_cpus, cuda.infrastructure.object_store_mb, cuda.vllm.block_size) == (None, None, None)


@pytest.mark.parametrize(
    ("bind", "given", "address"), [("127.0.0.1", "", "127.0.0.1"), ("0.0.0.0", "", ""), ("0.0.0.0", "10.0.0.5", "10.0.0.5")]
)
def test_the_address_is_left_open_where_only_the_machine_knows_it(write, bind, given, address):
    config = resolved(write, infrastructure__bind_host=f"'{bind}'", infrastructure__node0_ip=f"'{given}'")
    assert config.infrastructure.node0_ip == address


@pytest.mark.parametrize(("temperature", "given", "value"), [("0", "null", False), ("0.7", "null", True), ("0.7", "false", False)])
def test_validation_samples_when_its_temperature_says_so(write, temperature, given, value):
    config = resolved(write, algorithm__val_temperature=temperature, algorithm__val_do_sample=given)
    assert config.algorithm.val_do_sample is value


def test_empty_optional_paths_are_none(write):
    config = resolved(write)
    assert config.k8s.kubeconfig is None and config.harbor_runtime.sandbox.rootfs is None


def test_mounts_are_typed(write):
    config = resolved(write, harbor_agent__host_path_mounts="[{host_path: /a, mount_path: /b}]")
    (mount,) = config.harbor_agent.host_path_mounts
    assert (mount.host_path, mount.mount_path, mount.read_only) == ("/a", "/b", True)
