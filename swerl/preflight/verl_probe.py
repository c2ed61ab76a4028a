"""Runs in the trainer's environment, as a program: does verl take this configuration, up to the first update?

Input (stdin, JSON): ``overrides``, every Hydra argument of the run; ``given``, the entries of verl_overrides among them by plain name;
``modules``, what is imported with verl.
Output (last line of stdout, JSON): ``problems``, a list of {"key", "says"} where ``key`` is a verl key, or empty for the whole.

The configuration is composed as the trainer composes it. Then verl's own code decides: the dataclasses of its workers, the annotations of
their fields, `validate_config`, and, on a batch of two answers, the correction, the advantage estimator and the loss with exactly the
fields that its V1 trainer has by then. So a value that would end the run after its first rollout ends here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
ENGINE_ARGUMENT = f"{ROLLOUT}.engine_kwargs.vllm."


def problems(overrides: list[str], given: dict[str, Any], modules: list[str]) -> Iterator[dict[str, str]]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a person's own module may fail in any way
            yield {"key": "algorithm.modules", "says": f"{module} cannot be imported: {_words(error)}"}
            return
    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=overrides)
        OmegaConf.resolve(config)
    except Exception as error:  # Hydra and OmegaConf have a dozen classes for "no"; the words are what counts
        yield {"key": "", "says": _words(error)}
        return
    wrong = [{"key": key, "says": says} for key, value in given.items() if (says := wrong_type(config, key, value) or unknown_to_vllm(key))]
    if wrong:
        yield from wrong
        return
    for key, attempt in attempts(config):
        try:
            attempt()
        except Exception as error:  # verl says no by ValueError, TypeError, AssertionError, KeyError and more
            yield {"key": key, "says": _words(error)}


def attempts(config: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(verl's key, what verl does with it), in the order in which a run would meet them."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    if need_critic(config):
        yield "algorithm.adv_estimator", lambda: _refuse("it needs a critic (a value model), and swerl trains none")
        return
    yield "", lambda: validate_config(config, need_reference_policy(config), use_critic=False)
    for part in (ROLLOUT, f"{ROLLOUT}.checkpoint_engine", "algorithm"):
        yield part, lambda part=part: omega_conf_to_dataclass(_at(config, part))
    if need_reference_policy(config):
        yield "actor_rollout_ref.ref.fsdp_config", lambda: omega_conf_to_dataclass(config.actor_rollout_ref.ref.fsdp_config)
    if not config.algorithm.rollout_correction.bypass_mode:
        yield "algorithm.rollout_correction", lambda: correct(config)
    yield "algorithm.adv_estimator", lambda: estimate(config)
    yield f"{ACTOR}.policy_loss.loss_mode", lambda: lose(config)


def wrong_type(config: Any, key: str, value: Any) -> str:
    """Why the field of verl's dataclass, or else the value that verl ships there, does not take this value; empty if it does."""
    from hydra.utils import get_class
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    outer, _, leaf = key.rpartition(".")
    node = _at(config, outer)
    target = node.get("_target_") if hasattr(node, "get") else None
    hint = None
    if target:
        with contextlib.suppress(NameError, AttributeError):  # an annotation that cannot be evaluated says nothing
            hint = get_type_hints(get_class(target)).get(leaf)
    hint = hint if hint is not None else _shipped_type(key)
    if hint is None or hasattr(hint, "__dataclass_fields__"):
        return ""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        said = error.errors()[0]
        return f"{value!r} does not fit the field: {said['msg'][:1].lower()}{said['msg'][1:]}"
    return ""


def _shipped_type(key: str) -> Any:
    """The kind of value that verl's own file has at this key; None where it has null, a text (often a word for "none"), or nothing."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        shipped = _at(compose("ppo_trainer"), key)
    if isinstance(shipped, bool):
        return bool | None
    if isinstance(shipped, int | float):
        return float | None
    return None


def unknown_to_vllm(key: str) -> str:
    """verl passes these on as they are; vLLM's own argument parser ends the engine at a name that it does not have."""
    name = key.removeprefix(ENGINE_ARGUMENT).partition(".")[0]
    if not key.startswith(ENGINE_ARGUMENT):
        return ""
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    known = {action.dest for action in make_arg_parser(FlexibleArgumentParser())._actions}
    return "" if name in known else f"vLLM has no argument {name!r}"


def correct(config: Any) -> None:
    import torch
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask

    settings, zeros = config.algorithm.rollout_correction, torch.zeros(2, 3)
    names = ("rollout_is", "rollout_is_threshold", "rollout_is_batch_normalize", "rollout_rs", "rollout_rs_threshold")
    chosen = {name: settings.get(name) for name in names}
    compute_rollout_correction_and_rejection_mask(old_log_prob=zeros, rollout_log_prob=zeros, response_mask=torch.ones(2, 3), **chosen)


def estimate(config: Any) -> None:
    import numpy
    import torch
    from verl import DataProto
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, get_adv_estimator_fn
    from verl.trainer.ppo.ray_trainer import compute_advantage

    name, algorithm = config.algorithm.adv_estimator, config.algorithm
    _registered(name, ADV_ESTIMATOR_REGISTRY, get_adv_estimator_fn)
    shape = (2, 3)
    tensors = {field: torch.zeros(shape) for field in ("rm_scores", "rollout_log_probs", "old_log_probs", "ref_log_prob")}
    tensors |= {"token_level_scores": torch.eye(*shape), "token_level_rewards": torch.eye(*shape), "response_mask": torch.ones(shape)}
    batch = DataProto.from_dict(tensors=tensors, non_tensors={"uid": numpy.array(["a", "a"], dtype=object)})
    compute_advantage(
        batch,
        adv_estimator=name,
        gamma=algorithm.gamma,
        lam=algorithm.lam,
        num_repeat=2,
        norm_adv_by_std_in_grpo=algorithm.norm_adv_by_std_in_grpo,
        config=algorithm,
    )


def lose(config: Any) -> None:
    import torch
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass

    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    name = actor.policy_loss.get("loss_mode", "vanilla")
    _registered(name, POLICY_LOSS_REGISTRY, get_policy_loss_fn)
    if name == "bypass_mode":
        _refuse("verl's V1 trainer does not pass algorithm.rollout_correction on to this loss, which then takes its own defaults")
    actor.global_batch_info.update(dp_size=1, batch_num_tokens=6, global_batch_size=2, loss_scale_factor=actor.loss_scale_factor)
    zeros = torch.zeros(2, 3)
    get_policy_loss_fn(name)(
        old_log_prob=zeros,
        log_prob=zeros.clone().requires_grad_(),
        advantages=torch.eye(2, 3),
        response_mask=torch.ones(2, 3),
        loss_agg_mode=actor.loss_agg_mode,
        config=actor,
        rollout_is_weights=None,
    )


def _registered(name: str, registry: dict[Any, Any], get: Callable[[str], Any]) -> None:
    known = sorted(str(getattr(key, "value", key)) for key in registry)
    if str(name) not in known:
        _refuse(f"the installed verl does not know {name!r}; it has {', '.join(known)}")
    get(name)


def _refuse(text: str) -> None:
    raise ValueError(text)


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if hasattr(config, "get") else None
    return config


def _words(error: Exception) -> str:
    """verl's own sentence, without the frames that Hydra adds to it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(cause).split())
    return (text if len(text) > 12 and not isinstance(cause, KeyError) else f"{type(cause).__name__}: {text}")[:400]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        said = list(problems(asked["overrides"], asked["given"], asked["modules"]))
    print(json.dumps({"problems": said}))
