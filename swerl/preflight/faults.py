"""The catalogue of failures that runs of this kind are known to have (J1 to J54), and where each is dealt with.

``docs/faults.md`` is made from this table, from the numbers that checks and alarms carry (``faults``), and from the names of the tests in
``tests/faults`` (``test_j14_...``), so that a number is called covered exactly when a test plants it and a check or an alarm names it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.preflight.catalog import CHECKS
from swerl.watch import RULES

# Number: what a person sees.
SYMPTOMS: dict[int, str] = {
    1: "no tool call is ever recognised: wrong tool parser",
    2: "half of the GPUs idle: a replica is missing",
    3: "imports take many times longer: environment on a network file system",
    4: "reward always 0: the verifier fetches its grader without network",
    5: "sandboxes start slower and slower: leaked control groups",
    6: "assertion in a cached GPU kernel: built by an environment that is gone",
    7: "engine settings have no effect: Ray workers do not have the environment",
    8: "import of the Docker SDK fails: a directory of that name hides it",
    9: "Docker without its compose plugin",
    10: "control plane's disk is busy with no pods: a policy controller restarts for ever",
    11: "disk full of small writes: every sandbox fills a package cache of its own",
    12: "gateway refuses connections for half an hour: the engine failed to start",
    13: "GPUs idle while trials run: sandboxes are stuck",
    14: "illegal memory access at the first forward pass: gen_tp does not divide the KV heads",
    15: "404 for the agent: model name unknown to the endpoint",
    16: "every trial times out: a stale listener has the gateway's port",
    17: "first validation of an asynchronous run hangs without a traceback",
    18: "only a part of the validation is scored: no overall budget",
    19: "a tool is missing in a quarter of the sandboxes: installer piped into a shell",
    20: "name resolution error while grading: specification downloaded at that time",
    21: "no turn in any validation trial: images cannot be pulled",
    22: "resolve rate differs on regrading: noise of the grader",
    23: "evaluation of a checkpoint gives garbage: engine with dummy weights",
    24: "tensor-parallel workers time out waiting for each other: imports over the network",
    25: "trial configuration refused: other language or other field names",
    26: "agent needs a newer Python: its runtime image is not mounted",
    27: "learning rate 0: a schedule without a number of steps",
    28: "gradient starves: sequence-level importance weights on long responses",
    29: "policy stops calling tools",
    30: "avalanche of set-up failures: agent installed in a sandbox without network",
    31: "node out of memory: sandboxes without a limit",
    32: "SIGBUS: shared memory is full",
    33: "storage of size 0: engine and fused kernels do not go together",
    34: "router replay not wired, after minutes: it is on for a dense policy",
    35: "probability correlation near 0.75: mixture without router replay",
    36: "checkpoint does not load: FSDP1 and FSDP2 mixed",
    37: "a fifth of the trials is lost: names of pods are cut and collide",
    38: "a passing server error ends trials: no second attempt",
    39: "tool not found while grading, scored 0: PATH of the image replaced",
    40: "module not found or wrong one found: a task's file hides the standard library's",
    41: "agent runtime not there at the first command: image volume mounts late",
    42: "new learning rate ignored on resume: the scheduler is restored",
    43: "resume never happens: the time is in the experiment's name",
    44: "merged checkpoint is wrong: other tensor names",
    45: "packages are not those of the lock",
    46: "crash on a step with empty trajectories",
    47: "out of memory on a shared host: somebody else is on the GPUs",
    48: "prefix cache useless: a header that changes stands at the start of every prompt",
    49: "prefix cache thrashes late in a step: more long trials than it holds",
    50: "prompts cut to 4k tokens: the client does not know the model's window",
    51: "every trial fails on the cluster: isolation asked for that cannot be given",
    52: "single-sample training collapses: no token-level importance weights",
    53: "tasks that no patch solves",
    54: "start breaks without a validation before training",
}

# What is dealt with by neither preflight nor the watchdog. Numbers with a check or an alarm are not here.
ELSEWHERE: dict[int, tuple[str, str]] = {
    15: ("design", "the gateway answers to any model name (tests/gateway)"),
    22: ("not covered", "only grading again shows it"),
    23: ("not covered", "only the answers of a running engine show it"),
    41: ("not covered", "needs a cluster"),
    46: ("design", "absent trials give no rows and short groups are refilled (tests/trainer)"),
    48: ("design", "the gateway drops the header block before it renders a prompt (tests/gateway)"),
    54: ("design", "validation before training is one setting that nothing else depends on"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. ``how`` is preflight, watchdog, design or not covered."""

    number: int
    symptom: str
    how: str
    where: str
    tests: tuple[str, ...]


def planted(tests: Path) -> dict[int, list[str]]:
    """Names of the tests that plant each number, from the test files' syntax trees."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted(tests.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test_j(\d+)_", node.name)):
                found[int(match[1])].append(f"{path.name}::{node.name}")
    return dict(found)


def table(tests: Path) -> list[Fault]:
    checks, alarms = _claims(CHECKS), _claims(RULES)
    names = planted(tests)
    rows = []
    for number, symptom in SYMPTOMS.items():
        if number in checks or number in alarms:
            how, where = "preflight" if number in checks else "watchdog", ", ".join([*checks[number], *alarms[number]])
        else:
            how, where = ELSEWHERE[number]
        rows.append(Fault(number, symptom, how, where, tuple(names.get(number, ()))))
    return rows


def claimed() -> set[int]:
    """Numbers that a check or an alarm says it names."""
    return {number for one in (*CHECKS, *RULES) for number in one.faults}


def _claims(named: Iterable[Any]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for one in named:
        for number in one.faults:
            found[number].append(one.id)
    return found


def page(tests: Path) -> str:
    """``docs/faults.md``."""
    rows = table(tests)
    counts = {how: sum(r.how == how for r in rows) for how in ("preflight", "watchdog", "design", "not covered")}
    lines = [
        "# Seeded faults",
        "",
        "<!-- made by `python -m swerl.preflight.docs`; do not edit -->",
        "",
        f"Of {len(rows)} catalogued failures, preflight names {counts['preflight']} before a run starts, and the watchdog"
        f" {counts['watchdog']} more in the run. Each of these is planted by a test in `tests/faults`, in what is read (a file, a port,"
        " a process, an HTTP server, a mount, the events and metrics of a run). Where ids of the P and W families stand side by side, the"
        " watchdog names in the run what preflight could not see."
        f" {counts['design']} cannot happen by design, {counts['not covered']} are not covered.",
        "",
        "| number | what a person sees | dealt with | where | planted by |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        tests_text = "<br>".join(f"`{name}`" for name in row.tests)
        lines.append(f"| J{row.number} | {row.symptom} | {row.how} | {row.where} | {tests_text} |")
    return "\n".join(lines) + "\n"
