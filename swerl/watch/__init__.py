"""The watchdog: what only a running run can tell, named by id while it can still be helped.

Contract. ``Watchdog.take`` gets what the run's processes wrote for readers (events, rows of ``metrics.jsonl``), in the order it became
visible; ``Watchdog.look`` gets the time. Between them they return ``Alarm``s: an id, what was seen, the evidence as numbers, what to do,
and what follows (``note``: said; ``pause``: the run ends after its step, with a checkpoint; ``stop``: it ends now). An alarm is raised once
and again only after what it saw had gone. No log is read, and nothing here imports torch, vLLM, Ray, verl or Harbor.

``picture`` folds events and rows into where the run stands; ``training``, ``trials``, ``engine`` and ``hangs`` hold one small class an
alarm; ``sample`` is the supervisor's look at what no process reports (GPUs, disk, services); ``notify`` tells somebody.
"""

from swerl.watch.alarm import Alarm
from swerl.watch.rule import Rule
from swerl.watch.rules import RULES, rule_of
from swerl.watch.terms import Terms
from swerl.watch.watchdog import Watchdog

__all__ = ["RULES", "Alarm", "Rule", "Terms", "Watchdog", "rule_of"]
