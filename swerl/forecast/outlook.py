"""The whole forecast of a run's time: three sizes of trial, the advice, the price."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from swerl.facts.memory import Forecast
from swerl.forecast.advice import Advice, advise
from swerl.forecast.rates import Rates, Trial, assumed_trials, rates_for
from swerl.forecast.timing import RunTime, as_dict, run_time

HINT = "; a smoke run or an earlier run measures them: swerl forecast --from RUN"
SPAN = 0.25  # how far a measured mean trial may be off in a later step: longer answers, other tasks


@dataclass(frozen=True, slots=True)
class Outlook:
    """``low``, ``expected`` and ``high`` are of a small, a middling and a large mean trial; ``price`` is per GPU hour, in any currency."""

    foreseen: Forecast
    rates: Rates
    trial: Trial
    low: RunTime
    expected: RunTime
    high: RunTime
    advice: tuple[Advice, ...]
    price: float | None
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "rates": asdict(self.rates),
            "trial": asdict(self.trial),
            "low": as_dict(self.low),
            "expected": as_dict(self.expected),
            "high": as_dict(self.high),
            "advice": [asdict(one) for one in self.advice],
            "price_per_gpu_hour": self.price,
        }


def outlook(foreseen: Forecast, *, rates: Rates | None = None, trial: Trial | None = None, price: float | None = None) -> Outlook:
    """``rates`` and ``trial`` are assumed unless given."""
    chosen = rates or rates_for(foreseen.plan)
    small, middle, large = assumed_trials(foreseen.plan) if trial is None else _around(trial)
    return Outlook(
        foreseen=foreseen,
        rates=chosen,
        trial=middle,
        low=run_time(foreseen, chosen, small),
        expected=run_time(foreseen, chosen, middle),
        high=run_time(foreseen, chosen, large),
        advice=tuple(advise(foreseen, chosen, middle)),
        price=price,
        hint="" if trial else HINT,
    )


def _around(trial: Trial) -> tuple[Trial, Trial, Trial]:
    from dataclasses import replace

    def scaled(by: float) -> Trial:
        return replace(
            trial,
            outside_s=by * trial.outside_s,
            setup_s=by * trial.setup_s,
            verifier_s=by * trial.verifier_s,
            response_tokens=by * trial.response_tokens,
            sampled_tokens=by * trial.sampled_tokens,
        )

    return scaled(1 - SPAN), trial, scaled(1 + SPAN)
