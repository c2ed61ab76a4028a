"""Is every entry of `verl_overrides` a key of verl, and none a key of ours?

Ids: C012 a key that one of ours, or swerl itself, sets; C015 a name verl does not have, or a ``+`` for one it has.
"""

from __future__ import annotations

from swerl.config.nearest import suggestion
from swerl.config.runconfig import RunConfig
from swerl.config.schema import keys
from swerl.errors import Problem
from swerl.record.rundir import RunDir
from swerl.render.verl import plain_name, reserved
from swerl.render.verl_keys import VerlKeys


def check_overrides(config: RunConfig, run: RunDir, known: VerlKeys) -> list[Problem]:
    """One problem per entry that cannot be honoured, in the order of the entries."""
    problems = []
    taken = reserved(config, run)
    for name in config.verl_overrides:
        where = config.source.get(f"verl_overrides.{name}", config.source.get("verl_overrides", ""))
        conflict = _conflict(plain_name(name), taken)
        if conflict:
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


def _ours(verl_name: str) -> list[str]:
    return [key.name for key in keys().values() if verl_name in key.verl]


def _owner(verl_name: str) -> str:
    ours = _ours(verl_name)
    return " and ".join(f"`{name}`" for name in ours) if ours else f"`{verl_name}`, which swerl sets itself"


def _instead(verl_name: str) -> str:
    ours = _ours(verl_name)
    return f"set {' and '.join(ours)} instead" if ours else "remove it; swerl's parts depend on the value"


def _unknown(name: str, known: VerlKeys, where: str) -> list[Problem]:
    plain = plain_name(name)
    exists = plain in known.leaves or plain in known.groups
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
