"""Every check that can stop a run is triggered here or in ``tests/faults``, alone, on a site that is healthy otherwise."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from swerl.preflight import CHECKS, Report, run_file
from swerl.record.lock import hold
from swerl.record.rundir import RunDir

PROJECT = Path(__file__).resolve().parents[2]
CUDA = {"infrastructure.device": "cuda"}
DOCKER = {"harbor_agent.environment_import_path": "harbor.environments.docker.docker:DockerEnvironment"}
KUBERNETES = {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment"}
FLASH = {"training.attention": "flash_attention_4", "training.use_remove_padding": True}


def config_json(site, **changes: object) -> None:
    path = site.model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def placeholder(site) -> Report:
    return site.preflight({"model.model_path": "/path/to/model"}, only=["SWERL-P001"])


def held_by_another(site) -> Report:
    lock = site.config()[0].run_dir / "run.lock"
    with hold(lock):
        return site.preflight(only=["SWERL-P003"])


def cannot_render(site) -> Report:
    return site.preflight({"harbor_agent.environment_type": "docker"}, only=["SWERL-P004"])


def unknown_override(site) -> Report:
    return site.preflight({"verl_overrides": {"actor_rollout_ref.actor.ppo_epoch": 2}}, only=["SWERL-P005"])


def reserved_override(site) -> Report:
    return site.preflight({"verl_overrides": {"actor_rollout_ref.rollout.n": 4}}, only=["SWERL-P005"])


def no_model(site) -> Report:
    shutil.rmtree(site.model)
    return site.preflight(only=["SWERL-P101"])


def no_config_json(site) -> Report:
    (site.model / "config.json").unlink()
    return site.preflight(only=["SWERL-P101"])


def config_of_something_else(site) -> Report:
    (site.model / "config.json").write_text("{}")
    return site.preflight(only=["SWERL-P101"])


def truncated_weights(site) -> Report:
    path = site.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return site.preflight(only=["SWERL-P104"])


def shard_missing(site) -> Report:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}}
    (site.model / "model.safetensors.index.json").write_text(json.dumps(index))
    (site.model / "model.safetensors").rename(site.model / "model-00001-of-00002.safetensors")
    return site.preflight(only=["SWERL-P104"])


def layer_missing(site) -> Report:
    config_json(site, num_hidden_layers=3)
    return site.preflight(only=["SWERL-P104"])


def no_tokenizer(site) -> Report:
    (site.model / "tokenizer.json").unlink()
    return site.preflight(only=["SWERL-P105"])


def no_chat_template(site) -> Report:
    (site.model / "tokenizer_config.json").write_text("{}")
    return site.preflight(only=["SWERL-P105"])


def tokenizer_beyond_embedding(site) -> Report:
    config_json(site, vocab_size=200)
    return site.preflight(only=["SWERL-P105"])


def no_stop_token(site) -> Report:
    config_json(site, eos_token_id=None)
    (site.model / "generation_config.json").unlink()
    return site.preflight(only=["SWERL-P105"])


def window_too_long(site) -> Report:
    return site.preflight({"vllm.max_model_length": 4096}, only=["SWERL-P106"])


def quantised(site) -> Report:
    config_json(site, quantization_config={"quant_method": "fp8"})
    return site.preflight(only=["SWERL-P107"])


def adapters_on_no_layer(site) -> Report:
    return site.preflight({"model.lora.rank": 8, "training.save_hf": False, "model.lora.targets": ["q_proj", "query"]}, only=["SWERL-P111"])


def adapters_all_excluded(site) -> Report:
    sets = {"model.lora.rank": 8, "training.save_hf": False, "model.lora.targets": ["q_proj"], "model.lora.exclude": ["self_attn.q_proj"]}
    return site.preflight(sets, only=["SWERL-P111"])


def adapters_on_a_norm(site) -> Report:
    return site.preflight({"model.lora.rank": 8, "training.save_hf": False, "model.lora.targets": ["q_norm"]}, only=["SWERL-P111"])


def adapters_with_a_whole_copy(site) -> Report:
    return site.preflight({"model.lora.rank": 8, "training.save_hf": True}, only=["SWERL-P111"])


def adapters_on_all_of_a_mixture(site) -> Report:
    config_json(site, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    return site.preflight({"model.lora.rank": 8}, only=["SWERL-P111"])


def template_without_stop(site, site_module) -> Report:
    site_module.write_policy(site.model, template=site_module.HERMES.replace("<|im_end|>", "<|im_start|>"))
    return site.preflight(only=["SWERL-P109"])


def too_long_for_the_engine(site) -> Report:
    return site.preflight({"training.max_response_length": 600}, only=["SWERL-P201"])


def mini_batch_too_large(site) -> Report:
    return site.preflight({"training.train_prompt_mini_batch_size": 16}, only=["SWERL-P202"])


def mini_batch_uneven(site) -> Report:
    return site.preflight({"training.train_prompt_mini_batch_size": 3}, only=["SWERL-P202"])


def trials_not_over_gpus(site) -> Report:
    return site.preflight({"infrastructure.ngpus_per_node": 7, "training.use_dynamic_bsz": True}, only=["SWERL-P202"])


def micro_batch_uneven(site) -> Report:
    return site.preflight({"training.micro_batch_size_per_gpu": 5}, only=["SWERL-P202"])


def log_prob_micro_batch_uneven(site) -> Report:
    return site.preflight({"training.log_prob_micro_batch_size_per_gpu": 24}, only=["SWERL-P202"])


def sequence_parallel_over_gpus(site) -> Report:
    return site.preflight({"training.sp_size": 3, "infrastructure.ngpus_per_node": 8}, only=["SWERL-P202"])


def trial_exceeds_token_budget(site) -> Report:
    return site.preflight({"training.use_dynamic_bsz": True, "training.max_token_len_per_gpu": 100}, only=["SWERL-P203"])


def sequence_parallel_with_sdpa(site) -> Report:
    return site.preflight({"training.sp_size": 2, "infrastructure.ngpus_per_node": 2}, only=["SWERL-P302"])


def sequence_parallel_over_heads(site) -> Report:
    return site.preflight({"training.sp_size": 8, "infrastructure.ngpus_per_node": 8, **FLASH}, only=["SWERL-P302"])


def index_missing(site) -> Report:
    (site.data / "val.parquet").unlink()
    return site.preflight(only=["SWERL-P401"])


def index_of_something_else(site) -> Report:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), site.data / "train.parquet")
    return site.preflight(only=["SWERL-P401"])


def index_no_parquet(site) -> Report:
    (site.data / "train.parquet").write_text("prompt,reward\n")
    return site.preflight(only=["SWERL-P401"])


def row_without_task(site) -> Report:
    shutil.rmtree(site.train[2])
    return site.preflight(only=["SWERL-P402"])


def task_without_tests(site) -> Report:
    (site.val[0] / "tests" / "test.sh").unlink()
    return site.preflight(only=["SWERL-P402"])


def task_toml_broken(site) -> Report:
    (site.val[0] / "task.toml").write_text("version = ")
    return site.preflight(only=["SWERL-P402"])


def tasks_too_large(site) -> Report:
    for task in (*site.train, *site.val):
        (task / "environment" / "data").write_bytes(bytes(1))
        os.truncate(task / "environment" / "data", 9 << 20)
    return site.preflight({"harbor_runtime.sandbox.disk_mb": 8}, only=["SWERL-P412"])


def task_changed(site) -> Report:
    (site.val[1] / "tests" / "test.sh").write_text("#!/bin/bash\necho 1 > /logs/verifier/reward.txt\n")
    return site.preflight(only=["SWERL-P403"])


def split_shared(site) -> Report:
    site.val = [*site.val, site.train[0]]
    site.index()
    return site.preflight(only=["SWERL-P404"])


def too_few_tasks(site) -> Report:
    return site.preflight({"training.train_batch_size": 16, "training.train_prompt_mini_batch_size": 16}, only=["SWERL-P405"])


def sandbox_without_bwrap(site) -> Report:
    here = {}
    for name in ("bash", "python3"):
        here[name] = shutil.which(name)
        (site.bin / name).symlink_to(here[name])
    site.env["PATH"] = str(site.bin)
    return site.preflight(only=["SWERL-P502"])


def sandbox_that_dies(site) -> Report:
    site.program("bwrap", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    return site.preflight(only=["SWERL-P502"])


def docker_daemon_away(site) -> Report:
    site.program("docker", 'case "$1" in info) echo "Cannot connect to the Docker daemon" >&2; exit 1;; *) echo 2.40.1;; esac')
    return site.preflight(DOCKER, only=["SWERL-P503"])


def cluster_without_kubeconfig(site) -> Report:
    return site.preflight(KUBERNETES, only=["SWERL-P504"])


def cluster_away(site) -> Report:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (site.root / "kubeconfig").write_text(yaml.safe_dump(config))
    return site.preflight({**KUBERNETES, "k8s.kubeconfig": str(site.root / "kubeconfig")}, only=["SWERL-P504"])


def loopback_for_containers(site) -> Report:
    sets = {
        **DOCKER,
        "harbor_agent.agent_name": "claude-code",
        "harbor_agent.agent_import_path": "harbor.agents.installed.claude_code:ClaudeCode",
        "harbor_runtime.sandbox.network": "public",
    }
    assert not site.preflight({**sets, "harbor_runtime.sandbox.network": "gateway"}, only=["SWERL-P509"]).problems
    return site.preflight(sets, only=["SWERL-P509"])


def docker_elsewhere(site) -> Report:
    site.program("docker", "exit 1")
    return site.preflight({**DOCKER, "harbor_agent.docker_host": "tcp://10.0.0.9:2376"}, only=["SWERL-P517"])


def docker_elsewhere_by_its_context(site) -> Report:
    site.program("docker", 'case "$1" in context) echo ssh://me@build;; *) exit 1;; esac')
    return site.preflight(DOCKER, only=["SWERL-P517"])


def docker_rootless(site) -> Report:
    site.program("docker", """case "$1" in context) echo unix:///none;; *) echo '["name=rootless"] Debian';; esac""")
    return site.preflight(DOCKER, only=["SWERL-P517"])


def docker_in_a_machine(site) -> Report:
    site.program("docker", """case "$1" in context) echo unix:///none;; *) echo '[] Docker Desktop';; esac""")
    return site.preflight(DOCKER, only=["SWERL-P517"])


def docker_for_nobody(site) -> Report:
    return _docker_as(site, "0000000000000000", "0 0 4294967295")


def docker_for_a_namespaces_root(site) -> Report:
    return _docker_as(site, "000001ffffffffff", "0 1000 1")


def _docker_as(site, held: str, uid_map: str) -> Report:
    site.program("docker", """case "$1" in context) echo unix:///none;; *) echo '["name=seccomp"] Debian';; esac""")
    own = site.root / "proc" / "self"
    own.mkdir(parents=True)
    (own / "status").write_text(f"Name:\tx\nCapEff:\t{held}\n")
    (own / "uid_map").write_text(f"{uid_map}\n")
    site.places["proc"] = site.root / "proc"
    return site.preflight(DOCKER, only=["SWERL-P517"])


def no_gpu(site) -> Report:
    (site.bin / "true").symlink_to(shutil.which("true"))
    site.env["PATH"] = str(site.bin)
    return site.preflight(CUDA, only=["SWERL-P601"])


def too_few_gpus(site) -> Report:
    site.gpus(4)
    return site.preflight({**CUDA, "infrastructure.ngpus_per_node": 8}, only=["SWERL-P601"])


def driver_broken(site) -> Report:
    site.program("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the driver' ; exit 9")
    return site.preflight(CUDA, only=["SWERL-P601"])


def driver_too_old(site) -> Report:
    site.gpus(1, driver="535.230.02")
    return site.preflight(CUDA, only=["SWERL-P603"])


def cache_too_small(site) -> Report:
    site.gpus(1, memory_mb=256)
    return site.preflight({**CUDA, "vllm.gpu_memory_utilization": 0.1}, only=["SWERL-P604"])


def policy_too_large(site, site_module) -> Report:
    shape = json.loads((PROJECT / "tests" / "forecast" / "shapes" / "qwen3-30b-a3b.json").read_text())
    (site.model / "config.json").write_text(json.dumps(shape))
    site.gpus(1)
    return site.preflight(CUDA, only=["SWERL-P605"])


def disk_too_small(site, site_module) -> Report:
    shape = json.loads((PROJECT / "tests" / "forecast" / "shapes" / "qwen3-30b-a3b.json").read_text())
    (site.model / "config.json").write_text(json.dumps({**shape, "num_hidden_layers": 4800}))
    return site.preflight(only=["SWERL-P703"])


def shared_memory_missing(site) -> Report:
    site.places["shm"] = site.root / "none"
    return site.preflight(only=["SWERL-P704"])


def home_read_only(site) -> Report:
    site.places["home"] = Path("/proc/sys")  # root may write to every file system but a read-only one and this
    return site.preflight(only=["SWERL-P714"])


def home_a_file(site) -> Report:
    """As /dev/null, which accounts of services have."""
    site.places["home"] = Path("/dev/null")
    return site.preflight(only=["SWERL-P714"])


def nobody_at_home(site) -> Report:
    site.places["home"] = Path("~")
    return site.preflight(only=["SWERL-P714"])


def environment_missing(site) -> Report:
    return site.preflight({"environment.venv_path": str(site.root / "none")}, only=["SWERL-P801"])


def cpu_environment_for_gpus(site) -> Report:
    return site.preflight(CUDA, only=["SWERL-P802"])


def flash_attention_missing(site) -> Report:
    return site.preflight({**CUDA, **FLASH}, only=["SWERL-P804"])


def parser_unknown(site) -> Report:
    return site.preflight({"model.tool_parser": "hermess"}, only=["SWERL-P805"])


def checkpoint_of_other_ranks(site) -> Report:
    actor = site.root / "runs" / "site" / "checkpoints" / "global_step_4" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 8}))
    return site.preflight(only=["SWERL-P903"])


TRIGGERS: dict[Callable, str] = {
    placeholder: "SWERL-C007",
    held_by_another: "SWERL-P003",
    cannot_render: "SWERL-C017",
    unknown_override: "SWERL-C015",
    reserved_override: "SWERL-C012",
    no_model: "SWERL-P101",
    no_config_json: "SWERL-P101",
    config_of_something_else: "SWERL-P101",
    truncated_weights: "SWERL-P104",
    shard_missing: "SWERL-P104",
    layer_missing: "SWERL-P104",
    no_tokenizer: "SWERL-P105",
    no_chat_template: "SWERL-P105",
    tokenizer_beyond_embedding: "SWERL-P105",
    no_stop_token: "SWERL-P105",
    window_too_long: "SWERL-P106",
    quantised: "SWERL-P107",
    adapters_on_no_layer: "SWERL-P111",
    adapters_on_all_of_a_mixture: "SWERL-P111",
    adapters_all_excluded: "SWERL-P111",
    adapters_on_a_norm: "SWERL-P111",
    adapters_with_a_whole_copy: "SWERL-P111",
    template_without_stop: "SWERL-P109",
    too_long_for_the_engine: "SWERL-P201",
    mini_batch_too_large: "SWERL-P202",
    mini_batch_uneven: "SWERL-P202",
    trials_not_over_gpus: "SWERL-P202",
    micro_batch_uneven: "SWERL-P202",
    log_prob_micro_batch_uneven: "SWERL-P202",
    sequence_parallel_over_gpus: "SWERL-P202",
    trial_exceeds_token_budget: "SWERL-P203",
    sequence_parallel_with_sdpa: "SWERL-P302",
    sequence_parallel_over_heads: "SWERL-P302",
    index_missing: "SWERL-P401",
    index_of_something_else: "SWERL-P401",
    index_no_parquet: "SWERL-P401",
    row_without_task: "SWERL-P402",
    task_without_tests: "SWERL-P402",
    task_toml_broken: "SWERL-P402",
    tasks_too_large: "SWERL-P412",
    task_changed: "SWERL-P403",
    split_shared: "SWERL-P404",
    too_few_tasks: "SWERL-P405",
    sandbox_without_bwrap: "SWERL-P502",
    sandbox_that_dies: "SWERL-P502",
    docker_daemon_away: "SWERL-P503",
    cluster_without_kubeconfig: "SWERL-P504",
    cluster_away: "SWERL-P504",
    loopback_for_containers: "SWERL-P509",
    docker_elsewhere: "SWERL-P517",
    docker_elsewhere_by_its_context: "SWERL-P517",
    docker_rootless: "SWERL-P517",
    docker_in_a_machine: "SWERL-P517",
    docker_for_nobody: "SWERL-P517",
    docker_for_a_namespaces_root: "SWERL-P517",
    no_gpu: "SWERL-P601",
    too_few_gpus: "SWERL-P601",
    driver_broken: "SWERL-P601",
    driver_too_old: "SWERL-P603",
    cache_too_small: "SWERL-P604",
    policy_too_large: "SWERL-P605",
    disk_too_small: "SWERL-P703",
    shared_memory_missing: "SWERL-P704",
    home_read_only: "SWERL-P714",
    home_a_file: "SWERL-P714",
    nobody_at_home: "SWERL-P714",
    environment_missing: "SWERL-P801",
    cpu_environment_for_gpus: "SWERL-P802",
    flash_attention_missing: "SWERL-P804",
    parser_unknown: "SWERL-P805",
    checkpoint_of_other_ranks: "SWERL-P903",
}


@pytest.mark.parametrize("plant", TRIGGERS, ids=lambda f: f.__name__)
def test_trigger(plant: Callable, site, site_module):
    report = plant(site, site_module) if plant.__code__.co_argcount == 2 else plant(site)
    assert {p.id for p in report.fatal} == {TRIGGERS[plant]}, report.render(verbose=True)
    assert all(p.remedy and p.message and "the check itself failed" not in p.message for p in report.problems), report.render(verbose=True)


def test_weights_that_cannot_be_read_are_one_finding(site):
    """Nothing is said of layers and elements that nobody could count."""
    (problem,) = truncated_weights(site).fatal
    assert problem.message.startswith("model.safetensors: ")


def test_every_check_has_a_trigger():
    """By id in a trigger's table above or in the seeded-fault suite; P001, P004 and P005 pass on ids of the configuration room."""
    passing_on = {"SWERL-P001", "SWERL-P004", "SWERL-P005"}
    files = [*(PROJECT / "tests" / "faults").glob("test_*.py"), *Path(__file__).parent.glob("test_*.py")]
    named = "".join(path.read_text() for path in files).replace("'", '"')
    missing = [c.id for c in CHECKS if c.id not in passing_on and c.id not in TRIGGERS.values() and f'"{c.id}"' not in named]
    assert not missing


def warned(report: Report, id: str) -> bool:
    return report.ok and {p.id for p in report.problems} == {id}


def test_warnings_and_notes(site):
    """The rest of the checks, which never stop a run."""
    assert warned(site.preflight({"algorithm.use_kl_loss": True, "algorithm.kl_loss_coef": 0}, only=["SWERL-P304"]), "SWERL-P304")
    assert warned(site.preflight({"harbor_agent.temperature": 0.7}, only=["SWERL-P305"]), "SWERL-P305")
    assert warned(site.preflight({"harbor_runtime.tail_kill_target": 0.3}, only=["SWERL-P306"]), "SWERL-P306")
    assert warned(site.preflight({"training.save_freq": 100}, only=["SWERL-P307"]), "SWERL-P307")
    assert warned(site.preflight({"training.test_freq": -1, "training.val_before_train": False}, only=["SWERL-P307"]), "SWERL-P307")
    assert warned(site.preflight({"algorithm.top_p": 0.9}, only=["SWERL-P305"]), "SWERL-P305")
    assert warned(site.preflight({"algorithm.learning_rate": 0}, only=["SWERL-P301"]), "SWERL-P301")
    half = {"training.log_prob_micro_batch_size_per_gpu": 64}
    assert warned(site.preflight(half, only=["SWERL-P202"]), "SWERL-P202")


def test_some_large_tasks_are_a_warning(site):
    """Beside the run's limit there is the task's own; what fills half of a sandbox leaves the agent little."""
    data = site.train[0] / "environment" / "data"
    data.touch()
    for megabytes, says in ((3, None), (5, "1 task(s) fill more than half"), (9, "1 task(s) do not fit")):
        os.truncate(data, megabytes << 20)
        report = site.preflight({"harbor_runtime.sandbox.disk_mb": 8}, only=["SWERL-P412"])
        assert report.ok and [p.message.startswith(says) for p in report.problems] == ([True] if says else [])
    toml = site.train[0] / "task.toml"
    written = toml.read_text()
    for own in ("storage_mb = 32", 'storage = "32M"'):
        toml.write_text(f"{written}[environment]\n{own}\n")
        assert not site.preflight({"harbor_runtime.sandbox.disk_mb": 8}, only=["SWERL-P412"]).problems


def test_caches_elsewhere_need_no_home(site):
    site.places["home"] = Path("/dev/null")
    site.env |= {"HF_HOME": str(site.root / "hf"), "VLLM_CACHE_ROOT": str(site.root / "vllm")}
    assert site.preflight(only=["SWERL-P714"]).ok
    site.env |= {"XDG_CACHE_HOME": str(site.root), "HF_HOME": "", "VLLM_CACHE_ROOT": ""}
    assert site.preflight(only=["SWERL-P714"]).ok


def test_where_containers_can_be_kept_to_the_gateway(site):
    """This process's rights are what they are; the engine, the socket's owner and the network are planted."""
    healthy = _docker_as(site, "000001ffffffffff", "0 0 4294967295")
    assert not healthy.problems and healthy.ok
    for network in ("none", "public"):
        site.program("docker", "exit 1")
        assert not site.preflight({**DOCKER, "harbor_runtime.sandbox.network": network}, only=["SWERL-P517"]).problems


def test_an_engine_beside_another_proc(tmp_path: Path):
    code = "import sys; from swerl.preflight.containers import _of_its_place as f; print(f(sys.argv[1]))"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        asked = [sys.executable, "-c", code, str(tmp_path / "sock")]
        said = [
            subprocess.run([*before, *asked], capture_output=True, text=True, check=True).stdout.strip()
            for before in ([], ["unshare", "--user", "--map-root-user", "--pid", "--fork"])
        ]
    assert said[0] == "" and said[1].startswith("the engine runs beside another /proc")


def test_what_other_backends_do_not_do(site):
    other = {"harbor_agent.environment_import_path": "harbor.environments.daytona:DaytonaEnvironment"}
    report = site.preflight(other, only=["SWERL-P511", "SWERL-P518"])
    assert report.ok and {p.id for p in report.problems} == {"SWERL-P511", "SWERL-P518"}
    assert all("daytona:DaytonaEnvironment" in p.message for p in report.problems)
    for sets in ({}, DOCKER):
        assert not site.preflight(sets, only=["SWERL-P511", "SWERL-P518"]).problems
    assert warned(site.preflight(KUBERNETES, only=["SWERL-P511", "SWERL-P518"]), "SWERL-P511")
    untrusted = {"harbor_runtime.sandbox.untrusted": True}
    assert [p.id for p in site.preflight(other | untrusted, only=["SWERL-P519"]).fatal] == ["SWERL-P519"]
    assert not site.preflight(DOCKER | untrusted, only=["SWERL-P519"]).problems


def test_limits_that_need_root(site, site_module, tmp_path: Path):
    """The same check as another user, who can make neither control groups nor users of the host for sandboxes."""
    code = (
        "import importlib.util, os, sys; from pathlib import Path;"
        "s = importlib.util.spec_from_file_location('m', sys.argv[1]); m = importlib.util.module_from_spec(s); s.loader.exec_module(m);"
        "site = m.Site(Path(sys.argv[2])); os.seteuid(65534);"
        "reports = [site.preflight({'harbor_runtime.sandbox.untrusted': u}, only=['SWERL-P519']) for u in (False, True)];"
        "print([(r.ok, len(r.problems), {p.id for p in r.problems}) for r in reports])"
    )
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    path = tmp_path / "other"
    path.mkdir()
    command = [sys.executable, "-c", code, site_module.__file__, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[(True, 3, {'SWERL-P519'}), (False, 3, {'SWERL-P519'})]"


def test_limits_of_the_shell(site, site_module, tmp_path: Path):
    """A shell with a low limit of open files."""
    code = (
        "import importlib.util, sys; from pathlib import Path;"
        "s = importlib.util.spec_from_file_location('m', sys.argv[1]); m = importlib.util.module_from_spec(s); s.loader.exec_module(m);"
        "print(sorted(m.Site(Path(sys.argv[2])).preflight(only=['SWERL-P706']).ids))"
    )
    (tmp_path / "low").mkdir()
    command = ["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", sys.executable, "-c", code, site_module.__file__, str(tmp_path / "low")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['SWERL-P706']"


def test_proxies(site):
    site.env |= {"http_proxy": "http://proxy.example.org:3128"}
    assert warned(site.preflight(only=["SWERL-P707"]), "SWERL-P707")
    site.env |= {"NO_PROXY": "localhost, 127.0.0.1"}
    assert not site.preflight(only=["SWERL-P707"]).problems


def test_leftover_processes_of_this_run(site):
    run_dir = site.config()[0].run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "run.token").write_text("token-of-the-run\n")
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "SWERL_RUN_ID": "token-of-the-run"})
    try:
        report = site.preflight(only=["SWERL-P711"])
        assert warned(report, "SWERL-P711") and str(child.pid) in report.problems[0].message
        with hold(RunDir.at(run_dir).lock):
            assert not site.preflight(only=["SWERL-P711"]).problems, "they are a living run's"
    finally:
        child.kill()
        child.wait()
    assert not site.preflight(only=["SWERL-P711"]).problems


def test_an_update_longer_than_the_watchdog_waits(site):
    shape = PROJECT / "tests" / "forecast" / "shapes" / "qwen3-30b-a3b.json"
    shutil.copyfile(shape, site.model / "config.json")
    long = {**CUDA, **FLASH, "infrastructure.ngpus_per_node": 8, "training.train_batch_size": 512, "training.n_resp_per_prompt": 8}
    long |= {"training.max_prompt_length": 40000, "training.max_response_length": 68000, "vllm.max_model_length": 128000}
    report = site.preflight(long, only=["SWERL-P309"])
    assert warned(report, "SWERL-P309") and "the run is stopped as hung after 120" in report.problems[0].message
    for mended in ({"watch.phase_min": 6000}, {"watch.actions": {"SWERL-W504": "off"}}):
        assert not site.preflight({**long, **mended}, only=["SWERL-P309"]).problems


def test_who_is_told_can_be_told(site):
    def said(command: str, webhook: str) -> list[str]:
        site.env["SWERL_NOTIFY_WEBHOOK"] = webhook
        return [p.message for p in site.preflight({"notify.command": command}, only=["SWERL-P852"]).problems]

    assert said("sh -c true", "http://127.0.0.1:9/hook") == []
    assert said("no-such-program --now", "") == ["the command no-such-program is not installed"]
    assert said("", "hooks.example.org/x") == ["the webhook is no http address"]
    [message] = said("", "https://no-such-host.invalid/secret-path")
    assert "no-such-host.invalid does not resolve" in message and "secret-path" not in message


def test_leftovers_of_other_runs(site, tmp_path):
    """A dead run beside this one: its processes are named, its directory under /tmp is; a living run's are nobody's business."""
    other = RunDir.of(site.root / "runs", "other")
    other.root.mkdir(parents=True)
    other.token.write_text("token-of-other\n")
    other.create_scratch()
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "SWERL_RUN_ID": "token-of-other"})
    try:
        [problem] = site.preflight(only=["SWERL-P711"]).problems
        assert "1 process(es) of run other, which has ended" in problem.message and "swerl clean" in problem.remedy
        with hold(other.lock):
            assert not site.preflight(only=["SWERL-P711"]).problems
    finally:
        child.kill()
        child.wait()
    [problem] = site.preflight(only=["SWERL-P711"]).problems
    assert problem.severity == "note" and str(other.scratch) in problem.message
    shutil.rmtree(other.scratch)
    assert not site.preflight(only=["SWERL-P711"]).problems


def test_port_of_a_leftover_is_not_in_the_way(site):
    """After a kill -9 the gateway of this run may still hold its port: the same command must be able to go on."""
    run_dir = site.config()[0].run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "run.token").write_text("token-of-the-run\n")
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    for token, free in (("token-of-the-run", True), ("another-run", False)):
        env = {**os.environ, "SWERL_RUN_ID": token}
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as child:
            port = int(child.stdout.readline())
            assert site.preflight({"infrastructure.litellm_port": port}, only=["SWERL-P701"]).ok is free
            child.communicate("\n")


def test_wandb_key(site):
    sets = {"experiment.logger": ["console", "wandb"], "credentials.wandb_mode": "online"}
    assert warned(site.preflight(sets, only=["SWERL-P851"]), "SWERL-P851")
    (site.home / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert not site.preflight(sets, only=["SWERL-P851"]).problems
    (site.home / ".netrc").unlink()
    assert not site.preflight({**sets, "credentials.wandb_mode": "offline"}, only=["SWERL-P851"]).problems
    site.env["WANDB_API_KEY"] = "k" * 40
    assert not site.preflight(sets, only=["SWERL-P851"]).problems


def test_incomplete_checkpoint_is_passed_over(site):
    folder = site.root / "runs" / "site" / "checkpoints" / "global_step_8"
    folder.mkdir(parents=True)
    report = site.preflight(only=["SWERL-P901"])
    assert warned(report, "SWERL-P901") and "global_step_8" in report.problems[0].message


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_hung_probes_are_findings(site):
    """nvidia-smi that never answers, beside a check that does: both are reported, in time."""
    site.program("nvidia-smi", "sleep 600")
    started = time.monotonic()
    with listening() as port:
        report = site.preflight({**CUDA, "infrastructure.litellm_port": port}, only=["SWERL-P602", "SWERL-P701"], patience=0.5)
    assert time.monotonic() - started < 10
    assert report.ids == {"SWERL-P602", "SWERL-P701"}
    assert "hung" in next(p for p in report.problems if p.id == "SWERL-P602").message


def test_file_that_is_no_configuration(tmp_path: Path):
    for text in ("model: [", "- a\n", "modle:\n  x: 1\n"):
        (tmp_path / "config.yaml").write_text(text)
        report = run_file(tmp_path / "config.yaml", env={})
        assert not report.ok and all(p.id.startswith("SWERL-C") for p in report.problems), text
        assert "SAFE TO RUN: no" in report.render()
    assert not run_file(tmp_path / "missing.yaml", env={}).ok


def test_adapters_that_fit_and_whose_experts_do_not(site):
    sets = {"model.lora.rank": 8, "model.lora.targets": ["q_proj", "mlp.down_proj"], "training.save_hf": False}
    sets["model.lora.exclude"] = ["layers.0.self_attn.q_proj"]
    assert site.preflight(sets, only=["SWERL-P111"]).ok
    assert site.preflight(only=["SWERL-P111"]).ok
    from swerl.preflight.adapters import _unable

    layers = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate", "model.layers.0.mlp.experts.0.gate_proj"]
    assert "experts" in _unable("gate_proj", layers, layers[:1]) and "experts" in _unable("mlp.gate", layers, layers[:1])
    assert _unable("q_proj", layers, layers[:1]) == "" and "no linear layer" in _unable("proj", layers, layers[:1])


def test_adapters_of_an_earlier_start(site):
    """The checkpoint's adapters are loaded whatever alpha says, and fit any base of their shape."""
    run = site.root / "runs" / "site"
    (run / "checkpoints" / "global_step_8").mkdir(parents=True)
    sets = {"model.lora.rank": 8, "model.lora.alpha": 16, "training.save_hf": False}
    before = site.config(sets)[0].as_dict()
    (run / "resolved.json").write_text(json.dumps({"config": before}, default=str))
    assert site.preflight(sets, only=["SWERL-P902"]).ok
    for change in ({"model.lora.alpha": 32}, {"model.lora.rank": 16}, {"model.lora.rank": 0}, {"model.lora.targets": ["q_proj"]}):
        report = site.preflight({**sets, **change}, only=["SWERL-P902"])
        assert [p.id for p in report.fatal] == ["SWERL-P902"], change
    del before["model"]["lora"]
    (run / "resolved.json").write_text(json.dumps({"config": before}, default=str))
    assert site.preflight(only=["SWERL-P902"]).ok and not site.preflight(sets, only=["SWERL-P902"]).ok
