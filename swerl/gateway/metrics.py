"""Counters and latencies of the gateway, for ``/stats`` and, in Prometheus' text form, for ``/metrics``."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any

from swerl.gateway.errors import ApiError
from swerl.gateway.tree import Turn

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Metrics:
    def __init__(self) -> None:
        self.turns = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.sampled_tokens = 0
        self.journal_errors = 0
        self.refusals: Counter[tuple[int, str]] = Counter()
        self._buckets = [0] * (len(_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def answered(self, turn: Turn, seconds: float) -> None:
        self.turns += 1
        self.prompt_tokens += turn.parent.end
        self.cached_tokens += turn.cached_tokens
        self.sampled_tokens += turn.tokens.count
        self._buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def refused(self, error: ApiError) -> None:
        self.refusals[error.status, error.code] += 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "turns": self.turns,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "sampled_tokens": self.sampled_tokens,
            "journal_errors": self.journal_errors,
            "refusals": {f"{status} {code}": count for (status, code), count in sorted(self.refusals.items())},
        }

    def prometheus(self, gauges: dict[str, float]) -> str:
        lines = []
        for name in ("turns", "prompt_tokens", "cached_tokens", "sampled_tokens", "journal_errors"):
            lines += [f"# TYPE swerl_gateway_{name}_total counter", f"swerl_gateway_{name}_total {getattr(self, name)}"]
        lines.append("# TYPE swerl_gateway_refusals_total counter")
        for (status, code), count in sorted(self.refusals.items()):
            lines.append(f'swerl_gateway_refusals_total{{status="{status}",code="{code}"}} {count}')
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE swerl_gateway_{name} gauge", f"swerl_gateway_{name} {value}"]
        lines.append("# TYPE swerl_gateway_answer_seconds histogram")
        below = 0
        for bound, count in zip((*_BUCKETS_S, "+Inf"), self._buckets, strict=True):
            below += count
            lines.append(f'swerl_gateway_answer_seconds_bucket{{le="{bound}"}} {below}')
        lines += [f"swerl_gateway_answer_seconds_sum {self._sum_s}", f"swerl_gateway_answer_seconds_count {below}"]
        return "\n".join(lines) + "\n"


def per_session(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Session id to its figures, as gauges with the session as label."""
    names = sorted({name for values in figures.values() for name in values})
    lines = []
    for name in names:
        lines.append(f"# TYPE swerl_gateway_session_{name} gauge")
        lines += [f'swerl_gateway_session_{name}{{session="{id}"}} {values[name]}' for id, values in figures.items()]
    return "".join(f"{line}\n" for line in lines)
