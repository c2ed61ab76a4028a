"""Alarms about trials: whether they are judged, whether groups teach anything, and whether sandboxes keep starting as fast as they did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from swerl.watch.picture import Picture
from swerl.watch.rule import ClockRule, Finding, StepRule, number
from swerl.watch.terms import Terms

LEAST_GROUPS = 8  # of fewer, a share says nothing
SETUPS = 64  # trials at the beginning, and now, whose starts are compared
LEAST_SETUP_S = 5.0  # a start this short bothers nobody, however much it grew


class Invalid(StepRule):
    id = "SWERL-W201"
    title = "trials without a verdict that counts"
    reads = "swerl/trials/count"
    asks = "watch.invalid_ratio_max or more of a step's trials are not in the loss (those that were tail-killed are not counted)"
    remedy = "see which outcome they have (swerl/trials/outcome/* of the step, results under trials/) and mend that"
    faults = (30, 38)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        count, used = number(row, self.reads), number(row, "swerl/trials/in_loss")
        if count is None or used is None:
            return None
        counted = count - (number(row, "swerl/trials/outcome/tail_killed") or 0)
        if counted <= 0 or (counted - used) / counted < terms.watch.invalid_ratio_max:
            return None
        prefix = "swerl/trials/outcome/"
        outcomes = {name.removeprefix(prefix): int(value) for name, value in row.items() if name.startswith(prefix)}
        return Finding(
            f"{counted - used:.0f} of {counted:.0f} trials are not in the loss ({_words(outcomes)})",
            {"invalid_ratio": (counted - used) / counted, "outcomes": outcomes},
        )


class FlatGroups(StepRule):
    id = "SWERL-W202"
    title = "groups that teach nothing"
    reads = "critic/score/mean"
    asks = "more than watch.flat_groups_max of a step's groups have the same reward for all samples"
    remedy = "choose tasks of another difficulty (swerl data), raise training.n_resp_per_prompt, or set algorithm.filter_groups.enable"
    faults = (4,)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        groups: dict[str, set[float]] = defaultdict(set)
        for trial in picture.trials.get(step, ()):
            if trial.in_loss and trial.reward is not None:
                groups[trial.task].add(trial.reward)
        flat = [rewards for rewards in groups.values() if len(rewards) == 1]
        if len(groups) < LEAST_GROUPS or len(flat) / len(groups) <= terms.watch.flat_groups_max:
            return None
        zero, one = sum(rewards == {0.0} for rewards in flat), sum(rewards == {1.0} for rewards in flat)
        return Finding(
            f"{len(flat)} of {len(groups)} groups have one reward for all samples ({zero} all 0, {one} all 1)",
            {"groups": len(groups), "flat": len(flat), "all_zero": zero, "all_one": one},
        )


class Coverage(StepRule):
    id = "SWERL-W203"
    title = "validation incomplete"
    reads = "swerl/val/coverage"
    asks = "a validation graded less than watch.coverage_min of its trials"
    remedy = "raise the limits that cut it (SWERL-P506, SWERL-P510), see that images can be pulled; do not compare this number"
    faults = (18, 21)
    steps = 1

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found, least = number(row, self.reads), terms.watch.coverage_min
        if found is None or found >= least:
            return None
        return Finding(f"the validation graded {found:.0%} of its trials, less than {least:.0%}", {"coverage": found, "least": least})


class SetupDrift(ClockRule):
    id = "SWERL-W204"
    title = "sandboxes start slower and slower"
    asks = f"the last {SETUPS} trials' sandboxes took watch.setup_drift_max times as long to start as the first {SETUPS} trials' (median)"
    remedy = "look for leaked control groups, a full disk or image cache, and other tenants; swerl preflight --only host"
    faults = (5, 11)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if len(picture.setups_s) < 2 * SETUPS:
            return None
        first, last = median(picture.setups_s[:SETUPS]), median(picture.setups_s[-SETUPS:])
        if last < LEAST_SETUP_S or last < terms.watch.setup_drift_max * first:
            return None
        return Finding(f"a sandbox takes {last:.1f} s to start, {first:.1f} s at first", {"first_s": first, "last_s": last})


def _words(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items(), key=lambda pair: -pair[1]))


RULES = (Invalid(), FlatGroups(), Coverage(), SetupDrift())
