"""From checked values to a `RunConfig`: defaults filled in, automatic values decided, paths made absolute, types constructed.

Pure: the result depends on the values, the configuration file's place and the profile's name, never on the machine, so that every node of
a run resolves alike. What only a machine can tell (its address) stays empty for the process that needs it.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import orjson

from swerl.config.check import is_placeholder
from swerl.config.compose import Composed
from swerl.config.runconfig import SECTIONS, RunConfig, Secrets, plain
from swerl.config.schema import PROJECT_ROOT, defaults, keys, sections

Values = dict[str, Any]


def resolve(composed: Composed, file: Path, profile: str | None) -> RunConfig:
    """``composed`` must have passed `check` with nothing fatal but placeholders."""
    base_dir = file.resolve().parent
    values = defaults()
    _overlay(values, composed.values)
    for key in keys().values():  # a word where a number belongs: it has been reported, and the rest is still worth a look
        if "string" not in key.types and is_placeholder(_get(values, key.name)):
            _set(values, key.name, key.default)
    source = {key.name: composed.where_exact(key.name) or "default" for key in keys().values() if not key.read_only}
    source |= {f"verl_overrides.{name}": composed.where(("verl_overrides", name)) for name in values["verl_overrides"]}
    for key in keys().values():
        if key.path and key.path != "data_dir":
            _set(values, key.name, _absolute(_get(values, key.name), base_dir if key.path == "file" else PROJECT_ROOT))
    for name in ("data.train_index", "data.val_index"):
        _set(values, name, _absolute(_get(values, name), Path(values["data"]["data_dir"])))
    for name, rule in AUTO.items():
        before = _get(values, name)
        after = rule(values, profile)
        if after != before:
            _set(values, name, after)
            source[name] = "auto"
    secrets = Secrets(**{key.leaf: _get(values, key.name) for key in keys().values() if key.secret})
    return build(values, secrets=secrets, source=source, file=file.resolve(), profile=profile, base_dir=base_dir)


def build(
    values: Mapping[str, Any], *, secrets: Secrets, source: Mapping[str, str], file: Path, profile: str | None, base_dir: Path
) -> RunConfig:
    """The typed configuration of values that are already resolved (as `RunConfig.as_dict` gives them)."""
    hints = _hints(RunConfig)
    typed = {name: _construct(hints[name], values[name]) for name in SECTIONS}
    digest = hashlib.sha256(orjson.dumps({k: plain(v) for k, v in typed.items()}, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return RunConfig(
        **typed, secrets=secrets, source=MappingProxyType(dict(source)), digest=digest, file=file, profile=profile, base_dir=base_dir
    )


def completed(values: Mapping[str, Any], profile: str | None) -> Values:
    """``values`` of a run that knew fewer keys, with what `resolve` would give the others."""
    full: Values = copy.deepcopy(dict(values))
    added = []
    for key in keys().values():
        section = full
        for part in key.name.split(".")[:-1]:
            section = section.setdefault(part, {})
        if not key.secret and key.leaf not in section:
            section[key.leaf] = key.default
            added.append(key.name)
    for name in added:
        if name in AUTO:
            _set(full, name, AUTO[name](full, profile))
    return full


_hints = cache(get_type_hints)  # evaluating annotations costs more than everything else here


def _construct(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint``: a dataclass from a mapping, a tuple from a list, a Path from text, a float from a whole number."""
    if is_dataclass(hint):
        inner = _hints(hint)
        return hint(**{f.name: _construct(inner[f.name], value[f.name]) for f in fields(hint) if f.name in value})
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        members = [m for m in get_args(hint) if m is not NoneType]
        if value is None or (value == "" and Path in members):
            return None
        return _construct(members[0], value) if len(members) == 1 or not isinstance(value, str) else value
    if origin is tuple:
        return tuple(_construct(get_args(hint)[0], v) for v in value or ())
    if origin is Literal or hint is Any:
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return MappingProxyType(dict(value))
    return hint(value)


def _experiment_name(v: Values, profile: str | None) -> str:
    given = v["experiment"]["exp_name"]
    agent = v["harbor_agent"]["agent_name"] or "agent"
    return given or (
        Path(profile).stem if profile else f"{agent}-{v['training']['mode']}-{v['infrastructure']['nnodes']}n".replace("_", "-")
    )


def _run_dir(v: Values) -> str:
    return f"{v['experiment']['runs_dir']}/{v['experiment']['exp_name']}"


def _node0_ip(v: Values, _: str | None) -> str:
    bind = v["infrastructure"]["bind_host"]
    return v["infrastructure"]["node0_ip"] or ("" if bind in ("0.0.0.0", "::") else bind)


def _batched_tokens(v: Values, _: str | None) -> int:
    engine = v["vllm"]
    base = 4096 if v["infrastructure"]["device"] == "cpu" else 8192
    whole = 0 if engine["enable_chunked_prefill"] else engine["max_model_length"]
    return engine["max_num_batched_tokens"] or max(base, whole)


def _or(section: str, name: str, rule: Callable[[Values], Any]) -> Callable[[Values, str | None], Any]:
    """``rule`` where the value is null or empty."""

    def decide(v: Values, _: str | None) -> Any:
        given = v[section][name]
        return rule(v) if given is None or given == "" else given

    return decide


def _on_cpu(value: Any) -> Callable[[Values], Any]:
    return lambda v: value if v["infrastructure"]["device"] == "cpu" else None


def _attention(v: Values, _: str | None) -> str:
    given = v["training"]["attention"]
    return given if given != "auto" else ("flash_attention_4" if v["training"]["use_remove_padding"] else "sdpa")


def _log_prob_micro_batch(v: Values) -> int:
    """Twice the trainer's, unless fixed batches would not divide: absent groups can shorten a step to one mini-batch."""
    t, i = v["training"], v["infrastructure"]
    ranks = max(1, i["nnodes"] * i["ngpus_per_node"] // t["sp_size"])
    twice = 2 * t["micro_batch_size_per_gpu"]
    divides = t["train_prompt_mini_batch_size"] * t["n_resp_per_prompt"] // ranks % twice == 0
    return twice if t["use_dynamic_bsz"] or divides else t["micro_batch_size_per_gpu"]


def _sandbox_dir(v: Values, _: str | None) -> str:
    return v["harbor_runtime"]["sandbox"]["work_dir"] or f"{_run_dir(v)}/sandboxes"


# One rule per key with x-auto, in an order in which each rule finds what it reads already decided.
AUTO: Mapping[str, Callable[[Values, str | None], Any]] = MappingProxyType(
    {
        "experiment.exp_name": _experiment_name,
        "experiment.trials_dir": _or(
            "experiment", "trials_dir", lambda v: f"{_run_dir(v)}/trials/{v['experiment']['project_name']}/{v['experiment']['exp_name']}"
        ),
        "harbor_runtime.sandbox.work_dir": _sandbox_dir,
        "environment.venv_path": _or("environment", "venv_path", lambda _: str(PROJECT_ROOT / ".venv" / "train")),
        "environment.trials_venv_path": _or("environment", "trials_venv_path", lambda _: str(PROJECT_ROOT / ".venv" / "trials")),
        "infrastructure.node0_ip": _node0_ip,
        "infrastructure.ray_num_cpus": _or("infrastructure", "ray_num_cpus", _on_cpu(16)),
        "infrastructure.object_store_mb": _or("infrastructure", "object_store_mb", _on_cpu(500)),
        "watch.no_trial_min": _or("watch", "no_trial_min", lambda v: v["harbor_runtime"]["trial_hard_timeout_sec"] / 60 + 10),
        "vllm.max_num_batched_tokens": _batched_tokens,
        "vllm.kv_cache_gb": _or("vllm", "kv_cache_gb", lambda _: 1),
        "vllm.block_size": _or("vllm", "block_size", _on_cpu(16)),
        "training.log_prob_micro_batch_size_per_gpu": _or("training", "log_prob_micro_batch_size_per_gpu", _log_prob_micro_batch),
        "training.max_token_len_per_gpu": _or(
            "training",
            "max_token_len_per_gpu",
            lambda v: -(-(v["training"]["max_prompt_length"] + v["training"]["max_response_length"]) // v["training"]["sp_size"]),
        ),
        "training.attention": _attention,
        "algorithm.val_do_sample": _or("algorithm", "val_do_sample", lambda v: v["algorithm"]["val_temperature"] > 0),
    }
)


def _absolute(value: str | None, base: Path) -> str | None:
    """Absolute form of a path, "" and None staying what they are; ``~`` is the user's home."""
    if not value:
        return value
    return os.path.normpath(base / Path(value).expanduser())


def _overlay(values: Values, over: Mapping[str, Any], prefix: str = "") -> None:
    for name, value in over.items():
        here = f"{prefix}{name}"
        if here in sections():
            _overlay(values[name], value, f"{here}.")
        else:
            values[name] = value


def _get(values: Values, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def _set(values: Values, name: str, value: Any) -> None:
    *outer, leaf = name.split(".")
    for part in outer:
        values = values[part]
    values[leaf] = value
