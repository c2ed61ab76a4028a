"""Do two runs agree? Situations by name of what differs, numbers bit for bit, weights tensor by tensor. Pure but for reading files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.record.metrics import Row

# Clocks and what is computed from them: by prefix, and by a part of the name that says seconds. Everything else of a metrics row follows
# from the trials and the seeds.
TIMED = re.compile(r"(?:timing_s|timing_per_token_ms|perf|actor/perf)/|(?:.*/)?\w+_s(?:/|$)")

# What each way of reproducing depends on. Names are prefixes of the flattened situation.
RECORDED = (
    "source", "config.schema_sha256", "locks", "environments.train", "image", "model", "machine", "data.train.index", "data.val.index",
)  # fmt: skip
LIVE = (*RECORDED, "environments.trials", "data")


@dataclass(frozen=True, slots=True)
class Difference:
    """``then`` is the recorded value, ``now`` today's; None where there is none."""

    name: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {_short(self.then)} and is {_short(self.now)}"


def situations(then: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[Difference]:
    """Differences under ``names``, by flattened name. Notes on an environment (when it was verified) are no part of the situation."""
    wanted = tuple(names)
    old, new = dict(_flat(then)), dict(_flat(now))
    chosen = sorted(n for n in old.keys() | new.keys() if _under(n, wanted) and ".verified" not in n)
    return [Difference(n, old.get(n), new.get(n)) for n in chosen if old.get(n) != new.get(n)]


def metrics(then: Iterable[Row], now: Iterable[Row], last_step: int | None = None) -> list[Difference]:
    """Differences of all numbers that no clock is in, step by step; NaN equals NaN. A step or name that one side lacks is a difference."""
    old, new = _by_step(then, last_step), _by_step(now, last_step)
    found = []
    for step in sorted(old.keys() | new.keys()):
        left, right = old.get(step, {}), new.get(step, {})
        for name in sorted(left.keys() | right.keys()):
            if not _same(left.get(name), right.get(name)):
                found.append(Difference(f"step {step} {name}", left.get(name), right.get(name)))
    return found


def compared(rows: Iterable[Row], last_step: int | None = None) -> int:
    """How many numbers ``metrics`` looks at."""
    return sum(len(data) for data in _by_step(rows, last_step).values())


def weights(then: Path, now: Path) -> tuple[list[Difference], int]:
    """Differences between two checkpoints' model shards (``actor/model_world_size_*``), and how many tensors were compared."""
    import torch
    import torch.distributed.tensor  # the type of what a shard holds

    found, count = [], 0
    names = sorted({p.name for folder in (then, now) for p in folder.glob("actor/model_world_size_*.pt")})
    for name in names:
        if not ((then / "actor" / name).exists() and (now / "actor" / name).exists()):
            found.append(Difference(name, (then / "actor" / name).exists(), (now / "actor" / name).exists()))
            continue
        left, right = (torch.load(folder / "actor" / name, map_location="cpu", weights_only=True) for folder in (then, now))
        for key in sorted(left.keys() | right.keys()):
            count += 1
            if key not in left or key not in right:
                found.append(Difference(f"{name} {key}", key in left, key in right))
            elif not torch.equal(_local(left[key]), _local(right[key])):
                gap = (_local(left[key]).double() - _local(right[key]).double()).abs().max().item()
                found.append(Difference(f"{name} {key}", "the recorded weights", f"up to {gap:.3g} away"))
    return found, count


def _local(tensor: Any) -> Any:
    """A sharded tensor's own part."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _by_step(rows: Iterable[Row], last_step: int | None) -> dict[int, dict[str, Any]]:
    return {
        row.step: {name: value for name, value in row.data.items() if not TIMED.match(name)}
        for row in rows
        if last_step is None or row.step <= last_step
    }


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return type(left) is type(right) and left == right


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == p or name.startswith((f"{p}.", f"{p}_")) for p in prefixes)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}..."
