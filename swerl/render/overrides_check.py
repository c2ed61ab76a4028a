"""Is every entry of `verl_overrides` a key of verl, and none a key of ours?

Ids: C012 a key that one of ours, or swerl itself, sets, or that nothing would read; C015 a name verl does not have, a ``+`` for one it
has, a key given twice or taken away. Values are verl's business: preflight asks it (SWERL-P006).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from swerl.config.nearest import suggestion
from swerl.config.runconfig import RunConfig
from swerl.config.schema import keys
from swerl.errors import Problem
from swerl.record.rundir import RunDir
from swerl.render.verl import plain_name, reserved
from swerl.render.verl_keys import VerlKeys

_REWARD = "rewards come with the trials: set reward.key or reward.fn"
# Keys of verl that nothing reads in a run of swerl, each with what it stands under, and why.
WITHOUT_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "trainer.use_v1": "swerl starts verl's V1 trainers itself",
        "model_engine": "the FSDP engine is the one that is rendered and installed; megatron-core and veomni are not in the lock",
        "trainer.v1.sampler.custom_sampler": "the run's own replay buffer is used",
        "trainer.v1.separate_async": "training.mode has sync and colocate_async",
        "actor_rollout_ref.rollout.multi_turn": "agents hold the conversation, and harbor_agent says how",
        "critic": "no critic is trained",
        "custom_reward_function": _REWARD,
        "reward.custom_reward_function": _REWARD,
        "reward.reward_manager": _REWARD,
        "reward.reward_model": _REWARD,
        "reward.sandbox_fusion": _REWARD,
        "reward_model": _REWARD,
        "sandbox_fusion": _REWARD,
    }
)


def check_overrides(config: RunConfig, run: RunDir, known: VerlKeys) -> list[Problem]:
    """One problem per entry that cannot be honoured, in the order of the entries."""
    problems = []
    taken = reserved(config, run)
    times = Counter(map(plain_name, config.verl_overrides))
    for name in config.verl_overrides:
        where = config.source.get(f"verl_overrides.{name}", config.source.get("verl_overrides", ""))
        plain = plain_name(name)
        conflict = _conflict(plain, taken)
        if times[plain] > 1:
            times[plain] = 0  # said once
            problems.append(Problem("SWERL-C015", f"`verl_overrides` has `{plain}` more than once", "keep one of the entries", where))
        elif not times[plain]:
            continue
        elif dead := next((under for under in WITHOUT_EFFECT if plain == under or plain.startswith(f"{under}.")), ""):
            text = f"`verl_overrides.{name}` has no effect here: {WITHOUT_EFFECT[dead]}"
            problems.append(Problem("SWERL-C012", text, "remove it", where))
        elif conflict:
            problems.append(Problem("SWERL-C012", f"`verl_overrides.{name}` fights {_owner(conflict)}", _instead(conflict), where))
        else:
            problems += _unknown(name, known, where)
    return problems


def _conflict(name: str, taken: frozenset[str]) -> str:
    """The reserved key that ``name`` is, contains, or lies in; "" when there is none."""
    for other in sorted(taken):
        if name == other or other.startswith(f"{name}.") or name.startswith(f"{other}."):
            return other
    return ""


def ours(verl_name: str) -> list[str]:
    """Keys of the configuration that set this key of verl, or, for a group, something in it."""
    exact = [key.name for key in keys().values() if verl_name in key.verl]
    return exact or [key.name for key in keys().values() if verl_name and any(name.startswith(f"{verl_name}.") for name in key.verl)]


def _owner(verl_name: str) -> str:
    names = ours(verl_name)
    return " and ".join(f"`{name}`" for name in names) if names else f"`{verl_name}`, which swerl sets itself"


def _instead(verl_name: str) -> str:
    names = ours(verl_name)
    return f"set {' and '.join(names)} instead" if names else "remove it; swerl's parts depend on the value"


def _unknown(name: str, known: VerlKeys, where: str) -> list[Problem]:
    plain = plain_name(name)
    exists = plain in known.leaves or plain in known.groups
    if name.startswith("~"):
        text = f"`verl_overrides.{name}` takes away a key that verl reads"
        return [Problem("SWERL-C015", text, f"remove it, or give `{plain}` the value that means none (often null)", where)]
    if name.startswith("++") or exists is not name.startswith("+"):
        return []
    if exists:
        return [
            Problem(
                "SWERL-C015", f"`verl_overrides.{name}`: verl {known.version} has this key already", f"write `{plain}` without the +", where
            )
        ]
    near = suggestion(plain, sorted(known.leaves))
    return [
        Problem(
            "SWERL-C015",
            f"verl {known.version} has no key `{plain}`{near}",
            f"correct the name, or write `+{plain}` to add it: verl then passes it on unchecked",
            where,
        )
    ]
