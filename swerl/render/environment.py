"""Environment variables: the reference's names for people and hooks, and what the trainer's processes need."""

from __future__ import annotations

import shlex
from typing import Any

import orjson

from swerl.config.runconfig import RunConfig
from swerl.config.schema import keys
from swerl.record.rundir import RunDir


def environment_file(config: RunConfig) -> str:
    """``NAME=value`` lines a shell can source, one per key that has ``x-env``, in the schema's order.

    As in the reference, empty values are left out and booleans are ``True`` and ``False``. Secrets are left out too.
    """
    values = config.as_dict()
    lines = [f"# {config.experiment.exp_name}: rendered from the configuration; secrets come from the environment."]
    for key in keys().values():
        if not key.env or key.secret or key.dead:
            continue
        text = _text(_get(values, key.name))
        if text:
            lines.append(f"{key.env}={shlex.quote(text)}")
    return "\n".join(lines) + "\n"


def public_environment(config: RunConfig, run: RunDir) -> dict[str, str]:
    """Variables of every process of the trainer, on every node. No secrets."""
    i = config.infrastructure
    common = {
        "HF_HUB_OFFLINE": "1",  # the model is a directory; nothing is fetched during a run
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 lets sandboxes and everything else of the host go before the engine
        "HYDRA_FULL_ERROR": "1",
        "VERL_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_LEVEL": i.vllm_logging_level,
        "WANDB_MODE": wandb_mode(config),
        "WANDB_DIR": str(run.root),
        "TENSORBOARD_DIR": str(run.root / "tensorboard"),
        "TMPDIR": str(run.tmp),
    }
    if i.ray_port and i.nnodes == 1:
        common["RAY_GCS_SERVER_PORT"] = str(i.ray_port)  # on several machines `ray start` is told
    modules = [*(["swerl.trainer.cpu"] if i.device == "cpu" else []), *config.algorithm.modules]
    if modules:
        common["VERL_USE_EXTERNAL_MODULES"] = ",".join(modules)  # verl imports them with itself, in every process
    return common | (_cpu(config) if i.device == "cpu" else _CUDA)


def process_environment(config: RunConfig, run: RunDir) -> dict[str, str]:
    """`public_environment` with the secrets that are set. For ``os.environ`` and child processes; never written down."""
    key = config.secrets.wandb_api_key
    return public_environment(config, run) | ({"WANDB_API_KEY": key} if key else {})


def runner_environment(config: RunConfig) -> dict[str, str]:
    """Variables of the trial runner: where its Docker daemon is, and that litellm, which Harbor brings, fetches nothing at import."""
    docker = config.harbor_agent.docker_host
    return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1", **({"DOCKER_HOST": docker} if docker else {})}


def wandb_mode(config: RunConfig) -> str:
    """W&B without a key runs offline instead of stopping the run; preflight says so."""
    mode = config.credentials.wandb_mode
    return "offline" if mode == "online" and not config.secrets.wandb_api_key else mode


def _cpu(config: RunConfig) -> dict[str, str]:
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",  # the engine registry has no entry for the CPU; this one names no device
        "VLLM_CPU_KVCACHE_SPACE": str(config.vllm.kv_cache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",  # trainer, engine and sandboxes share the cores
        "TORCHDYNAMO_DISABLE": "1",  # vLLM's sampler compiles C++ for 15 to 20 s at every start, and gives the same numbers without
    }


# flashinfer compiles its sampler for minutes where its prebuilt kernels cannot be fetched, which looks like a hang
_CUDA = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, list | dict):
        return orjson.dumps(value).decode() if value else ""
    return str(value)


def _get(values: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values
