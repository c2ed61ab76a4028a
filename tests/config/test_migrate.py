"""The reference's nested form, all its keys, into ours."""

from __future__ import annotations

import pytest
import yaml

from swerl.config import examine, migrate
from swerl.config.schema import keys
from swerl.errors import SwerlError

# Keys of the reference's `runtime_info.input`, section by section, with the values it documents.
NESTED_INPUT = {
    "model": {"model_path": "/models/Qwen3-30B-A3B-Instruct-2507", "served_model_name": "vllm_model"},
    "data": {"data_dir": "/data/harbor_indexes", "train_index": "train_rebench1663.parquet", "val_index": "val_official500.parquet"},
    "infrastructure": {
        "node0_ip": "",
        "nnodes": 1,
        "ngpus_per_node": 8,
        "ray_port": 6379,
        "ray_dashboard_port": 8265,
        "litellm_port": 8002,
        "vllm_logging_level": "INFO",
        "anthropic_api_key": "sk-dummy",
    },
    "environment": {"venv_path": "repos/harbor-verl-train/.venv"},
    "k8s": {"kubeconfig": "/site/kubeconfig", "namespace": "rl", "pod_startup_timeout": 1200, "pod_active_deadline_seconds": 6000},
    "harbor_agent": {
        "agent_name": "claude-code",
        "agent_import_path": "harbor_patch.agents.image_mounted_claude_code:ClaudeCode",
        "runtime_image": "docker.io/jierun/c-cc-2.1.118:v0.1",
        "runtime_mount_path": "/opt/custom-agent-runtime/claude-code",
        "runtime_image_subpath": "opt/custom-agent-runtime/claude-code",
        "max_iterations": 100,
        "max_timeout_sec": 2400,
        "override_timeout_sec": 2400,
        "disable_tool_calls": False,
        "temperature": 1.0,
        "max_retries": 2,
        "verifier_enabled": True,
        "pod_name_prefix": "swe-lego-live-rl",
        "agent_setup_timeout_multiplier": 1.0,
        "agent_timeout_multiplier": 1.0,
        "verifier_timeout_multiplier": 1.0,
        "environment_build_timeout_multiplier": 1.0,
        "environment_type": None,
        "environment_import_path": "harbor_patch.environments.remote_docker:RemoteDockerEnvironment",
        "environment_force_build": True,
        "environment_delete": True,
        "environment_override_cpus": 1,
        "environment_override_memory_mb": 8192,
        "max_consecutive_no_tool": 0,
        "host_path_mounts": '[{"host_path": "/opt/cache", "mount_path": "/opt/cache", "read_only": true}]',
        "docker_host": "tcp://sandboxes.example:2376",
    },
    "harbor_runtime": {"num_workers": 16, "tail_kill_target": 1.0, "tail_kill_grace_sec": 180, "tail_kill_min_tasks": 32},
    "experiment": {
        "project_name": "swe-lego-live-rl",
        "exp_name": "harbor-cc-sync-1n-20260101-120000",
        "trials_dir": "",
        "trajectory_logger_src": "scripts/trajectory_logger.py",
    },
    "credentials": {"wandb_api_key": "a-secret-key", "wandb_mode": "offline"},
    "vllm": {
        "gen_tp": 4,
        "max_model_length": 128000,
        "gpu_memory_utilization": 0.85,
        "max_num_seqs": 96,
        "enforce_eager": False,
        "dtype": "bfloat16",
        "enable_chunked_prefill": True,
    },
    "training": {
        "train_batch_size": 64,
        "val_batch_size": 500,
        "n_resp_per_prompt": 8,
        "train_prompt_mini_batch_size": 64,
        "max_prompt_length": 40000,
        "max_response_length": 68000,
        "sp_size": 4,
        "use_dynamic_bsz": True,
        "ref_offload": True,
        "actor_offload": True,
        "total_epochs": 3,
        "save_freq": 5,
        "test_freq": 5,
        "val_before_train": False,
    },
    "algorithm": {
        "adv_estimator": "grpo",
        "policy_loss_mode": "gspo",
        "learning_rate": 1e-6,
        "use_kl_loss": False,
        "kl_loss_coef": 0.001,
        "kl_loss_type": "low_var_kl",
        "clip_ratio_low": 3e-4,
        "clip_ratio_high": 4e-4,
        "entropy_coeff": 0.0,
        "loss_agg_mode": "seq-mean-token-mean",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "val_temperature": 0,
        "val_top_p": 1.0,
        "val_top_k": -1,
    },
}
OUTPUT = {
    name: {"description": "d", "value": None, "path": "p"}
    for name in ("checkpoint_path", "val_resolve_rate", "training_curves", "training_log", "vllm_log", "trajectory_log")
}
META = {
    "name": "rl",
    "label": "RL Training",
    "parent": "swe_lego_live",
    "subblocks": {},
    "dependencies": [{"from": "trainer.output.checkpoint_path", "to": "model.model_path", "required": False}],
    "repos": {"harbor": {"url": "u", "branch": "b", "pinned_commit": "9f98f9d"}},
    "environment": {"bootstrap_script": "repos/harbor-verl-train/scripts/setup_env.sh"},
    "resources": {"ip": None, "gpu": "8x"},
}


def nested(**changes) -> str:
    sections = {name: dict(body) for name, body in NESTED_INPUT.items()}
    for name, value in changes.items():
        section, _, leaf = name.partition("__")
        sections.setdefault(section, {})[leaf] = value
    return yaml.safe_dump({"meta_info": META, "runtime_info": {"input": sections, "output": OUTPUT}})


def moved(**changes) -> tuple[dict, list[str]]:
    text, notices = migrate(nested(**changes))
    return yaml.safe_load(text), notices


def test_the_whole_reference_becomes_a_valid_file(write):
    text, _ = migrate(nested())
    assert examine(write(text, filled=False), env={}).problems == ()


def test_every_setting_arrives_or_is_explained():
    new, notices = moved()
    for section, body in NESTED_INPUT.items():
        for leaf, value in body.items():
            name = f"{section}.{leaf}"
            explained = any(name in notice for notice in notices)
            assert explained or new[section][leaf] == value or name == "harbor_agent.host_path_mounts", name
    assert new["harbor_agent"]["host_path_mounts"] == [{"host_path": "/opt/cache", "mount_path": "/opt/cache", "read_only": True}]


def test_meta_and_output_are_explained():
    _, notices = moved()
    for name in ("meta_info.name", "meta_info.dependencies", "meta_info.repos", "meta_info.environment", "meta_info.resources"):
        assert any(name in n for n in notices), name
    assert any("runtime_info.output" in n for n in notices)
    assert any("takes effect" in n for n in notices)


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("agent_import_path", "harbor_patch.agents.image_mounted_claude_code:ClaudeCode", "harbor.agents.installed.claude_code:ClaudeCode"),
        ("agent_import_path", "harbor_patch.agents.image_mounted_opencode:OpenCode", "harbor.agents.installed.opencode:OpenCode"),
        (
            "agent_import_path",
            "harbor_patch.agents.image_mounted_openhands_ai.openhands:OpenHands",
            "harbor.agents.installed.openhands:OpenHands",
        ),
        (
            "agent_import_path",
            "harbor.agents.custom.openhands_sdk:CustomOpenHandsSDK",
            "harbor.agents.installed.openhands_sdk:OpenHandsSDK",
        ),
        (
            "environment_import_path",
            "harbor_patch.environments.kubernetes.kubernetes:KubernetesEnvironment",
            "harbor.environments.ack:ACKEnvironment",
        ),
        (
            "environment_import_path",
            "harbor_patch.environments.remote_docker:RemoteDockerEnvironment",
            "harbor.environments.docker.docker:DockerEnvironment",
        ),
        ("agent_import_path", "mine.agents:Agent", "mine.agents:Agent"),
    ],
)
def test_import_paths(key, old, new):
    moved_to, notices = moved(**{f"harbor_agent__{key}": old})
    assert moved_to["harbor_agent"][key] == new
    assert any(old in n and new in n for n in notices) == (old != new)


def test_a_patched_class_without_counterpart_must_be_filled_in(write):
    text, notices = migrate(nested(harbor_agent__agent_import_path="harbor_patch.agents.codex:Codex"))
    assert any("harbor_patch.agents.codex:Codex" in n for n in notices)
    (problem,) = examine(write(text, filled=False), env={}).problems
    assert problem.id == "SWERL-C007" and "agent_import_path" in problem.message


def test_secrets_are_not_carried_over_or_shown():
    text, notices = migrate(nested())
    assert "a-secret-key" not in text + " ".join(notices)
    assert any("WANDB_API_KEY" in n for n in notices)


@pytest.mark.parametrize("name", ["x-20260101-120000", "x-$(date +%s)", "run_20260101120000"])
def test_names_with_the_time_are_emptied(name):
    new, notices = moved(experiment__exp_name=name)
    assert new["experiment"]["exp_name"] == "" and any(name in n for n in notices)


def test_a_stable_name_is_kept():
    assert moved(experiment__exp_name="cc-sync-1n")[0]["experiment"]["exp_name"] == "cc-sync-1n"


def test_unknown_keys_and_markers():
    new, notices = moved(vllm__gen_tpp=2, model__model_path="human", harbor_agent__environment_type="kubernetes")
    assert any("vllm.gen_tpp" in n and "vllm.gen_tp`" in n for n in notices)
    assert "gen_tpp" not in new["vllm"]
    assert new["model"]["model_path"] == "human"
    assert new["harbor_agent"]["environment_type"] is None


@pytest.mark.parametrize(("old", "new"), [("", None), (" ", None), ("[", "REPLACE_ME")])
def test_mounts_as_text(old, new):
    assert moved(harbor_agent__host_path_mounts=old)[0]["harbor_agent"]["host_path_mounts"] == new


def test_live_state_at_the_top_is_explained():
    text = "meta_info: {name: rl}\nstatus: {phase: running}\nruntime_info: {input: {}, evolving: 1}\n"
    _, notices = migrate(text)
    assert any(n.startswith("status") for n in notices) and any("runtime_info.evolving" in n for n in notices)


def test_our_own_form_is_left_alone(root):
    text = (root / "config.yaml").read_text()
    assert migrate(text) == (text, [])
    again, _ = migrate(nested())
    assert migrate(again) == (again, [])


def test_not_yaml():
    with pytest.raises(SwerlError):
        migrate("a: [")


def test_the_nested_file_of_this_test_has_every_key_of_the_reference():
    """Keys with a variable of the old generation are the reference's; the rest of the list is written out above."""
    ours = {"training.mode", "training.val_n", "environment.trials_venv_path", "notify.webhook"}
    listed = {f"{s}.{leaf}" for s, body in NESTED_INPUT.items() for leaf in body}
    assert listed <= set(keys())
    harbor_and_site = {n for n, k in keys().items() if k.env and n.split(".")[0] not in ("vllm", "training", "algorithm", "notify")}
    assert harbor_and_site - {"model.tool_parser"} - ours <= listed
