"""Alarms about nothing happening: every wait of a run has an end with a name.

The engine's absences (weight updates, boot) are phases of their own and do not count as waiting for trials.
"""

from __future__ import annotations

from swerl.watch.picture import Picture
from swerl.watch.rule import ClockRule, Finding
from swerl.watch.terms import Terms

MINUTE_S = 60.0


class NoTrial(ClockRule):
    id = "SWERL-W501"
    title = "no trial finishes"
    asks = "trials run and the engine answers, and none has finished for watch.no_trial_min minutes"
    remedy = "see what the oldest trial waits for (swerl status, its directory under trials/); the same command resumes"
    action = "stop"
    faults = (13, 16)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.up_since is None or not picture.running:
            return None
        oldest = min(picture.running, key=lambda name: picture.running[name])
        since = max(picture.last_settled, picture.up_since, picture.running[oldest])
        minutes = picture.waited_s(now, since) / MINUTE_S
        if minutes < terms.watch.no_trial_min:
            return None
        return Finding(
            f"{len(picture.running)} trials run and none has finished for {minutes:.0f} minutes; the oldest is {oldest}",
            {"minutes": minutes, "running": len(picture.running), "oldest": oldest},
        )


class WaitsForNobody(ClockRule):
    id = "SWERL-W502"
    title = "the trainer waits for trials that nobody runs"
    asks = (
        "the trainer samples or validates, no trial runs, and nothing happened for watch.idle_min minutes (where some are queued: for"
        " watch.no_trial_min)"
    )
    remedy = (
        "verl's replay buffer polls for ever when an agent-loop worker has died or its event loop is blocked: the trainer's log has its"
        " last words; the same command resumes"
    )
    action = "stop"
    faults = (17,)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.up_since is None or picture.phase not in ("sample", "validate") or picture.running:
            return None
        runner = (picture.samples[-1].get("runner") or {}) if picture.samples else {}
        queued = (runner.get("running") or 0) + (runner.get("queued") or 0)
        minutes = picture.waited_s(now, picture.last_settled, picture.up_since, picture.phase_since) / MINUTE_S
        if minutes < (terms.watch.no_trial_min if queued else terms.watch.idle_min):
            return None
        what = "validation" if picture.phase == "validate" else f"step {picture.step}"
        waiting = f"{queued} trials wait in the runner and none" if queued else "no trial"
        return Finding(
            f"the replay buffer polls for {what}, and {waiting} has run for {minutes:.0f} minutes",
            {"minutes": minutes, "phase": picture.phase, "step": picture.step},
        )


class Boot(ClockRule):
    id = "SWERL-W503"
    title = "the engine does not come up"
    asks = "the trainer was started and no engine answers after watch.boot_min minutes"
    remedy = "the trainer's log names the engine's first error; a first start that compiles kernels may need a larger watch.boot_min"
    action = "stop"
    faults = (12, 24)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        minutes = picture.waited_s(now, picture.phase_since) / MINUTE_S
        if picture.phase != "boot" or minutes < terms.watch.boot_min:
            return None
        return Finding(f"no engine answers {minutes:.0f} minutes after the trainer's start", {"minutes": minutes})


class Stuck(ClockRule):
    id = "SWERL-W504"
    title = "an update does not end"
    asks = "the weight update, what comes between two steps, or the trainer's end has taken longer than watch.phase_min minutes"
    remedy = "a rank may wait for one that died: the trainer's log and py-spy dump say which; the same command resumes"
    action = "stop"

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        minutes = picture.waited_s(now, picture.phase_since) / MINUTE_S
        what = {"update": "the update", "between": "what comes between two steps", "ending": "the trainer's end"}.get(picture.phase)
        if what is None or minutes < terms.watch.phase_min:
            return None
        return Finding(f"{what} has taken {minutes:.0f} minutes", {"minutes": minutes, "phase": picture.phase, "step": picture.step})


class EngineDied(ClockRule):
    id = "SWERL-W505"
    title = "the engine died"
    asks = "a replica of the engine is dead"
    remedy = (
        "the trainer's log has the engine's last words (out of memory, most often); the trainer is started again from the newest"
        " checkpoint, infrastructure.restarts times without a new step in between"
    )

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.engine_died is None:
            return None
        return Finding(f"replica {picture.engine_died}", {"cause": picture.engine_died})


class SilentBoot(ClockRule):
    id = "SWERL-W506"
    title = "the boot gets nowhere"
    asks = "the trainer has no engine yet and its log has said nothing new for two and a half minutes"
    remedy = (
        "the file of stacks says what each process waits for; a slow disk or a first compilation of kernels ends by itself, anything else"
        " at watch.boot_min"
    )

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        silent = picture.boot_silent
        if silent is None:
            return None
        last = silent["lines"][-1] if silent["lines"] else "nothing"
        text = f"the trainer has said nothing new for {silent['quiet_s']} s; its last line: {last[:200]}; stacks: {silent['stacks']}"
        return Finding(text, {"quiet_s": silent["quiet_s"], "lines": silent["lines"], "stacks": silent["stacks"]})


RULES = (NoTrial(), WaitsForNobody(), Boot(), Stuck(), EngineDied(), SilentBoot())
