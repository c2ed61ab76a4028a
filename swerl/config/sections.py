"""The configuration as types: one frozen dataclass per section, fields named as in the schema.

Values are resolved: paths are absolute `Path`s (None where empty means "none"), lists are tuples, and what the schema calls automatic
(`x-auto`) has become a value. Field names, types and allowed words equal the schema's; tests/config/test_sections.py proves it.
The whole, with its secrets, is `swerl.config.runconfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host shown in every sandbox."""

    host_path: str
    mount_path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The bubblewrap sandbox; other backends take their limits from `harbor_agent`."""

    rootfs: Path | None
    work_dir: Path
    network: Literal["gateway", "none", "public"]
    untrusted: bool
    max_processes: int
    max_file_mb: int
    disk_mb: int


@dataclass(frozen=True, slots=True)
class FilterGroups:
    """Replace groups whose samples all got the same reward."""

    enable: bool
    max_inflight_batches: int


@dataclass(frozen=True, slots=True)
class RolloutCorrection:
    """Correction for engine and trainer disagreeing about probabilities."""

    rollout_is: Literal["token", "sequence"] | None
    rollout_is_threshold: float | str
    rollout_rs: str | None
    rollout_rs_threshold: float | str | None
    bypass_mode: bool


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters beside the policy's own weights; none where ``rank`` is 0."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """The policy that is trained."""

    model_path: Path
    served_model_name: str
    tool_parser: str
    reasoning_parser: str | None
    chat_template: Path | None
    lora: Lora


@dataclass(frozen=True, slots=True)
class Data:
    """Where the tasks are. An index is a parquet file with one row per task (prompt, reward_model, extra_info)."""

    data_dir: Path
    train_index: Path
    val_index: Path
    infer_tasks: int
    infer_attempts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Machines, ports and devices."""

    device: Literal["cuda", "cpu"]
    nnodes: int
    ngpus_per_node: int
    node0_ip: str
    bind_host: str
    litellm_port: int
    ray_port: int
    ray_dashboard_port: int
    join_timeout_sec: int
    restarts: int
    ray_num_cpus: int | None
    object_store_mb: int | None
    vllm_logging_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    anthropic_api_key: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Python environments of the two halves."""

    venv_path: Path
    trials_venv_path: Path
    bootstrap_script: str
    requirements: Path


@dataclass(frozen=True, slots=True)
class K8s:
    """Kubernetes sandboxes (`harbor_agent.environment_import_path` names Harbor's cluster backend)."""

    kubeconfig: Path | None
    namespace: str
    pod_startup_timeout: int
    pod_active_deadline_seconds: int


@dataclass(frozen=True, slots=True)
class HarborAgent:
    """The agent of a trial and the sandbox it works in."""

    agent_name: str | None
    agent_import_path: str | None
    runtime_image: str
    runtime_mount_path: str
    runtime_image_subpath: str
    runtime_dir: Path | None
    max_iterations: int
    max_timeout_sec: int
    override_timeout_sec: int | None
    disable_tool_calls: bool
    temperature: float
    max_retries: int
    verifier_enabled: bool
    pod_name_prefix: str
    agent_setup_timeout_multiplier: float
    agent_timeout_multiplier: float
    verifier_timeout_multiplier: float
    environment_build_timeout_multiplier: float
    agent_kwargs: Mapping[str, Any]
    environment_kwargs: Mapping[str, Any]
    environment_type: str | None
    environment_import_path: str | None
    environment_force_build: bool
    environment_delete: bool
    environment_override_cpus: int | None
    environment_override_memory_mb: int | None
    max_consecutive_no_tool: int
    host_path_mounts: tuple[Mount, ...]
    docker_host: str


@dataclass(frozen=True, slots=True)
class HarborRuntime:
    """How trials are run."""

    num_workers: int
    tail_kill_target: float
    tail_kill_grace_sec: int
    tail_kill_min_tasks: int
    trial_hard_timeout_sec: int
    warm_pool: int
    retry_budget: float
    retry_quarantined: bool
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Experiment:
    """Names and places of the run."""

    project_name: str
    exp_name: str
    runs_dir: Path
    trials_dir: Path
    dashboard: bool
    dashboard_port: int
    logger: tuple[str, ...]
    trajectory_logger_src: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets. The environment wins over this file; secrets reach no log, manifest or sandbox."""

    wandb_mode: Literal["online", "offline", "disabled"]


@dataclass(frozen=True, slots=True)
class Vllm:
    """The inference engine."""

    gen_tp: int
    max_model_length: int
    gpu_memory_utilization: float
    max_num_seqs: int
    enforce_eager: bool
    dtype: Literal["bfloat16", "float16", "float32"]
    enable_chunked_prefill: bool
    max_num_batched_tokens: int
    kv_cache_gb: int
    block_size: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Training:
    """The training loop."""

    mode: Literal["sync", "colocate_async"]
    train_batch_size: int
    val_batch_size: int
    n_resp_per_prompt: int
    val_n: int
    train_prompt_mini_batch_size: int
    micro_batch_size_per_gpu: int
    log_prob_micro_batch_size_per_gpu: int
    use_dynamic_bsz: bool
    max_token_len_per_gpu: int
    max_prompt_length: int
    max_response_length: int
    sp_size: int
    use_remove_padding: bool
    attention: Literal["sdpa", "flash_attention_4", "flash_attention_2", "eager"]
    param_dtype: Literal["bfloat16", "float16", "float32"]
    gradient_checkpointing: bool
    ref_offload: bool
    actor_offload: bool
    total_epochs: int
    total_steps: int | None
    save_freq: int
    test_freq: int
    val_before_train: bool
    max_checkpoints: int | None
    save_hf: bool
    resume: Literal["auto", "never"]
    lr_scheduler: Literal["constant", "cosine"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Objective and sampling."""

    adv_estimator: str
    policy_loss_mode: str
    modules: tuple[str, ...]
    loss_agg_mode: Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
    learning_rate: float
    lr_warmup_steps: int
    weight_decay: float
    grad_clip: float
    norm_adv_by_std: bool
    use_kl_loss: bool
    kl_loss_coef: float
    kl_loss_type: Literal["low_var_kl", "kl", "abs", "mse"]
    clip_ratio_low: float
    clip_ratio_high: float
    entropy_coeff: float
    temperature: float
    top_p: float
    top_k: int
    val_temperature: float
    val_top_p: float
    val_top_k: int
    val_do_sample: bool
    filter_groups: FilterGroups
    rollout_correction: RolloutCorrection


@dataclass(frozen=True, slots=True)
class Reward:
    """From the verifier's numbers to the reward."""

    key: str
    fn: str | None
    overlong: Literal["keep", "drop"]
    timeout: Literal["drop", "keep"]


@dataclass(frozen=True, slots=True)
class Capture:
    """What of a session is trained on."""

    paths: Literal["main", "all"]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The server between agents and the engine."""

    on_rewrite: Literal["keep", "branch"]
    sampling: Literal["run", "client"]
    max_body_mb: int
    body_timeout_sec: int
    read_timeout_sec: int
    max_hold_sec: int
    keepalive_sec: int
    max_sessions: int
    kv_cache_tokens: int


@dataclass(frozen=True, slots=True)
class Watch:
    """What the watchdog of a run calls an alarm, and what follows."""

    actions: Mapping[str, Any]
    steps: int
    correlation_min: float
    rollout_kl_max: float
    grad_norm_max: float
    entropy_min_share: float
    ess_min: float
    turns_min: float
    history_min_share: float
    invalid_ratio_max: float
    flat_groups_max: float
    coverage_min: float
    setup_drift_max: float
    prefix_hit_min_share: float
    gpu_idle_min: float
    disk_free_gb: float
    no_trial_min: float
    idle_min: float
    boot_min: float
    phase_min: float
    sample_sec: float


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told of alarms and of a run's end. The webhook is a secret: see `Secrets`."""

    command: str | None
    least: Literal["note", "pause", "stop"]
