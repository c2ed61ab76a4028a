"""Family `data`: the indexes, and the tasks they point at."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from swerl.config import dump_resolved
from swerl.data.hashing import task_hash
from swerl.facts.indexes import IndexUnreadable, Row
from swerl.facts.memory import size
from swerl.facts.plan import steps_per_epoch
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.taskfiles import SCAN_S, missing_part

SPLITS = ("train", "val")
HASHED_TASKS = 64  # of each split, evenly spread: hashing reads every file of a task
TRIED_TASKS = 2
_SHOWN = 3

# A verifier that fetches something when it grades: without network it fails, and the failure looks like an unsolved task.
_FETCHES = re.compile(
    r"^[^#\n]*?(?:\b(?P<tool>git\s+(?:clone|fetch|pull)|curl|wget|pip3?\s+install|uv\s+pip\s+install|npm\s+(?:ci|install)|apt(?:-get)?\s+install"
    r"|cargo\s+(?:fetch|install)|go\s+get)\b|(?P<call>requests\.get|urllib\.request|make_test_spec))",
    re.MULTILINE,
)
_PIPED_INSTALLER = re.compile(r"^[^#\n]*\b(?:curl|wget)\b[^\n|]*\|\s*(?:sudo\s+)?(?:ba|z|da)?sh\b", re.MULTILINE)
_SAFE_PYTHON = re.compile(r"python3?\s+(-\w+\s+)*-\w*[PI]")
_PATH_OVERRIDE = re.compile(r"^\s*ENV\s+PATH[= ](?P<value>.*)$", re.MULTILINE)


class IndexesRead(Check):
    id = "SWERL-P401"
    family = "data"
    title = "task indexes"
    asks = "both indexes are parquet files with the columns of an index and at least one row"
    remedy = "set data.data_dir, data.train_index and data.val_index; `swerl data index` builds an index from task directories"
    live = True
    budget_s = 5.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        for split in SPLITS:
            path = ctx.index_path(split)
            ctx.filled(f"data.{split}_index", path)
            try:
                rows = ctx.read_rows(split)
            except IndexUnreadable as error:
                yield self.found(f"data.{split}_index {path} {error}", ctx.source(f"data.{split}_index"))
            else:
                yield Fact(f"{len(rows)} {split} tasks")


class RowsPointAtTasks(Check):
    id = "SWERL-P402"
    family = "data"
    title = "index rows"
    asks = "every row points at a directory with instruction.md, task.toml and tests/test.sh, and gives its instruction as the prompt"
    remedy = "rebuild the index beside its tasks, or drop the rows named"
    live = True
    budget_s = 9.5
    faults = (25,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for split in SPLITS:
            rows = ctx.rows(split)
            bad = [(row, reason) for row in rows if (reason := missing_part(row) or ("" if row.prompt.strip() else "the prompt is empty"))]
            yield from self._report(bad, len(rows), split, ctx)
            yield Fact(f"{len(rows) - len(bad)} of {len(rows)} {split} rows valid")
        unreadable = [(task.row, f"task.toml: {task.toml_error}") for task in ctx.task_files().tasks if task.toml_error]
        yield from self._report(unreadable, len(ctx.task_files().tasks), "", ctx)

    def _report(self, bad: list[tuple[Row, str]], number: int, split: str, ctx: Context) -> Iterator[Finding]:
        if bad:
            named = "; ".join(f"row {row.number} ({row.task_id}): {reason}" for row, reason in bad[:_SHOWN])
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            where = ctx.index_path(split) if split else bad[0][0].task_dir
            yield self.found(f"{len(bad)} of {number} {split or 'task'} rows: {named}{more}", str(where))


class HashesMatch(Check):
    id = "SWERL-P403"
    family = "data"
    title = "task contents"
    asks = f"the tasks are what the index was built from, by content hash ({HASHED_TASKS} of each split)"
    remedy = "rebuild the index, or restore the tasks; a trial's identity is this hash"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        deadline = time.monotonic() + SCAN_S
        for split in SPLITS:
            changed, number = [], 0
            for row in spread([r for r in ctx.rows(split) if r.task_dir.is_dir()], HASHED_TASKS):
                if time.monotonic() > deadline:
                    break
                number += 1
                if task_hash(row.task_dir) != row.task_hash:
                    changed.append(row.task_id)
            if changed:
                names = ", ".join(changed[:_SHOWN])
                where = str(ctx.index_path(split))
                yield self.found(f"{len(changed)} of {number} {split} tasks changed since they were indexed: {names}", where)
            yield Fact(f"{number - len(changed)} of {number} {split} hashes match")


class SplitsAreApart(Check):
    id = "SWERL-P404"
    family = "data"
    title = "training and validation"
    asks = "no task is in both splits, and none is in one split twice"
    remedy = "take the tasks named out of one of the two indexes"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        train, val = ctx.rows("train"), ctx.rows("val")
        shared = {r.task_hash or str(r.task_dir) for r in train} & {r.task_hash or str(r.task_dir) for r in val}
        if shared:
            names = sorted(r.task_id for r in val if (r.task_hash or str(r.task_dir)) in shared)
            yield self.found(f"{len(shared)} validation tasks are training tasks too, such as {names[0]}", str(ctx.index_path("val")))
        for split, rows in (("train", train), ("val", val)):
            twice = [k for k, n in Counter(r.task_hash or str(r.task_dir) for r in rows).items() if n > 1]
            if twice:
                name = next(r.task_id for r in rows if (r.task_hash or str(r.task_dir)) == twice[0])
                yield self.found(
                    f"{len(twice)} {split} tasks stand in the index more than once, such as {name}",
                    str(ctx.index_path(split)),
                    severity="warning",
                )


class EnoughTasks(Check):
    id = "SWERL-P405"
    family = "data"
    title = "tasks and steps"
    asks = "there are enough training tasks for one batch"
    remedy = "lower training.train_batch_size, or add tasks"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        rows, training = len(ctx.rows("train")), ctx.cfg.training
        per_epoch = steps_per_epoch(ctx.cfg, rows)
        if per_epoch == 0:
            place = ctx.source("training.train_batch_size")
            yield self.found(f"{rows} training tasks do not fill one batch of {training.train_batch_size}: no step would be trained", place)
            return
        total = per_epoch * training.total_epochs
        if training.total_steps is not None and training.total_steps > total:
            yield self.found(
                f"total_steps {training.total_steps}, but {training.total_epochs} epoch(s) of {per_epoch} steps end at {total}",
                ctx.source("training.total_steps"),
                remedy="raise training.total_epochs",
                severity="warning",
            )
        yield Fact(f"{per_epoch} steps an epoch")


class VerifierStaysOffline(Check):
    id = "SWERL-P406"
    family = "data"
    title = "verifiers need no network"
    asks = "no verifier fetches anything when it grades; in a sandbox without network that scores 0 where the task was solved"
    remedy = "put what the verifier fetches into the task's image or its tests directory"
    severity = "warning"
    live = True
    budget_s = 9.5
    faults = (4, 11, 20)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.cfg.harbor_runtime.sandbox.network == "public":
            raise NotApplicable("harbor_runtime.sandbox.network is public")
        hits: dict[str, str] = {}
        for task in ctx.task_files().tasks:
            for name, text in task.verifier.items():
                if match := _FETCHES.search(text):
                    hits.setdefault(task.row.task_id, f"{name} runs {match.group('tool') or match.group('call')}")
        if hits:
            first = next(iter(hits.items()))
            yield self.found(f"{len(hits)} task(s) fetch at grading time, such as {first[0]}: {first[1]}", first[0])
        yield Fact(ctx.task_files().extent)


class InstallersMayFail(Check):
    id = "SWERL-P407"
    family = "data"
    title = "installers in task files"
    asks = "no build or test script pipes a download into a shell: when the download fails the script goes on as if it had worked"
    remedy = "download to a file first, check it, and then run it (or `set -o pipefail`)"
    severity = "warning"
    live = True
    budget_s = 9.5
    faults = (19,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for task in ctx.task_files().tasks:
            for name, text in (("environment/Dockerfile", task.dockerfile), ("tests/test.sh", task.test_script)):
                if (match := _PIPED_INSTALLER.search(text)) and "pipefail" not in text:
                    where = str(task.row.task_dir / name)
                    yield self.found(f"{task.row.task_id} pipes a download into a shell: {match.group(0).strip()[:80]}", where)
                    return


class PathIsKept(Check):
    id = "SWERL-P408"
    family = "data"
    title = "PATH of task images"
    asks = "no Dockerfile replaces PATH outright; tools of the image would not be found, and the task scores 0"
    remedy = "write ENV PATH=/new:$PATH"
    severity = "warning"
    live = True
    budget_s = 9.5
    faults = (39,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for task in ctx.task_files().tasks:
            for match in _PATH_OVERRIDE.finditer(task.dockerfile):
                if "$PATH" not in match["value"] and "${PATH" not in match["value"]:
                    where = str(task.row.task_dir / "environment" / "Dockerfile")
                    yield self.found(f"{task.row.task_id} sets PATH to {match['value'].strip()[:80]}", where)
                    return


class NamesDoNotShadow(Check):
    id = "SWERL-P409"
    family = "data"
    title = "module names in tasks"
    asks = "no Python file where a verifier runs has the name of a module of the standard library, which it would hide"
    remedy = "rename the file, or start Python with -P (PYTHONSAFEPATH=1) in tests/test.sh"
    severity = "warning"
    live = True
    budget_s = 9.5
    faults = (40,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for task in ctx.task_files().tasks:
            safe = "PYTHONSAFEPATH" in task.test_script or _SAFE_PYTHON.search(task.test_script)
            if task.shadowing and not safe:
                name = task.shadowing[0]
                where = str(task.row.task_dir / name)
                yield self.found(f"{task.row.task_id}: {name} hides the standard library's {Path(name).stem}", where)
                return


class FilesFit(Check):
    id = "SWERL-P412"
    family = "data"
    title = "size of tasks"
    asks = "the files that a task brings fit into its sandbox, and leave half of it to the agent's work"
    remedy = "raise harbor_runtime.sandbox.disk_mb (the task's own: storage_mb in task.toml), or put large files into a rootfs"
    live = True
    budget_s = 9.5

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "bubblewrap":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        usual, tasks = ctx.cfg.harbor_runtime.sandbox.disk_mb, ctx.task_files().tasks
        shares = sorted(((t.environment_bytes / ((t.storage_mb or usual) << 20), t) for t in tasks), key=lambda pair: pair[0], reverse=True)
        large, too_large = (sum(share > most for share, _ in shares) for most in (0.5, 1.0))
        if large:
            _, worst = shares[0]
            says = (
                f"{too_large} task(s) do not fit into their sandboxes"
                if too_large
                else f"{large} task(s) fill more than half of their sandboxes"
            )
            text = f"{says}, such as {worst.row.task_id}: {size(worst.environment_bytes)} of {worst.storage_mb or usual} MB"
            where = str(worst.row.task_dir / "environment")
            yield self.found(text, where, severity="fatal" if too_large == len(tasks) else "warning")
        yield Fact(ctx.task_files().extent)


class SolutionsExist(Check):
    id = "SWERL-P410"
    family = "data"
    title = "gold solutions"
    asks = "tasks bring the solution that `swerl doctor` needs to prove that they can be solved"
    remedy = "add solution/solve.sh, or drop the tasks that have none; an unsolvable task teaches nothing and lowers every score"
    severity = "warning"
    live = True
    budget_s = 8.0
    faults = (53,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for split in SPLITS:
            rows = ctx.rows(split)
            without = [r.task_id for r in rows if not missing_part(r) and not (r.task_dir / "solution" / "solve.sh").is_file()]
            if without:
                yield self.found(
                    f"{len(without)} of {len(rows)} {split} tasks have no solution/solve.sh, such as {without[0]}",
                    str(ctx.index_path(split)),
                )


class TasksAreSound(Check):
    id = "SWERL-P411"
    family = "data"
    title = "tasks, tried"
    asks = f"the gold solution is rewarded and doing nothing is not, on {TRIED_TASKS} tasks of each split in the configured sandbox"
    remedy = "`swerl doctor` names every unsound task and says what its trials said; mend them, or drop them from their index"
    live = True
    slow = True
    budget_s = 180.0
    faults = (53,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        ctx.rows("train"), ctx.rows("val")
        python = ctx.cfg.environment.trials_venv_path / "bin" / "python"
        if not python.exists():
            raise NotApplicable("the trials environment is missing (SWERL-P801)")
        with tempfile.TemporaryDirectory(prefix="swerl-preflight-") as scratch:
            resolved = Path(scratch) / "resolved.json"
            resolved.write_bytes(dump_resolved(ctx.cfg))
            command = [str(python), "-P", "-m", "swerl.trials.doctor", "--config", str(resolved), "--tasks", str(TRIED_TASKS)]
            answer = ctx.ask(command, timeout_s=170.0)
        if not answer.ok:
            said = [line for line in (answer.err or answer.out).splitlines() if line.strip()]
            yield self.found(f"the doctor could not examine: {said[-1] if said else answer.code}", str(ctx.cfg.data.data_dir))
            return
        report = orjson.loads(answer.out.strip().splitlines()[-1])
        for task in report["unsound"]:
            yield self.found(f"{task['task']} is not sound: {task['verdict'].replace('_', ' ')}", str(ctx.cfg.data.data_dir))
        yield Fact(", ".join(f"{number} {verdict.replace('_', ' ')}" for verdict, number in report["counts"].items()))


def spread(rows: list[Row], limit: int) -> list[Row]:
    """At most ``limit`` rows, evenly over the index, the same ones each time."""
    return rows if len(rows) <= limit else [rows[i * len(rows) // limit] for i in range(limit)]


CHECKS = (
    IndexesRead(),
    RowsPointAtTasks(),
    HashesMatch(),
    SplitsAreApart(),
    EnoughTasks(),
    VerifierStaysOffline(),
    InstallersMayFail(),
    PathIsKept(),
    NamesDoNotShadow(),
    FilesFit(),
    SolutionsExist(),
    TasksAreSound(),
)
