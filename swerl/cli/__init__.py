"""The command line: verbs only. Each verb lives in a module of its own that is imported when the verb is called, never for ``--help``.

Every verb prints what it did and the next command. Exit codes: 0 all well, 1 problems found, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sqlite3
import sys
from collections.abc import Sequence

import click

from swerl.errors import Problem, SwerlError

# verb -> (module:command, what it does). In the order a newcomer needs them.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("swerl.cli.demo:demo", "The whole loop on this machine: policy, tasks, preflight, training, results."),
    "validate": ("swerl.cli.configuration:validate", "Check config.yaml (and a profile) against the schema."),
    "render": ("swerl.cli.configuration:render", "Show what the processes of a run would be given."),
    "preflight": ("swerl.cli.preflight:preflight", "Find what would fail, before it does. Changes nothing."),
    "forecast": ("swerl.cli.forecast:forecast", "Predict memory, time and cost from config.json and the profile; compare RUN."),
    "doctor": ("swerl.cli.doctor:doctor", "Prove the tasks: the gold solution is rewarded, doing nothing is not."),
    "smoke": ("swerl.cli.smoke:smoke", "One real step of the profile, cut to 8 x 4 trials, and a verdict."),
    "train": ("swerl.cli.train:train", "Train; the same command resumes."),
    "resume": ("swerl.cli.train:resume", "Continue a run from its own snapshot, without config.yaml."),
    "eval": ("swerl.cli.evaluate:eval_command", "Score a policy: a checkpoint, a Hugging Face directory, or a URL."),
    "infer": ("swerl.cli.evaluate:infer_command", "Sample k attempts a task: trajectories, rewards, a filtered index."),
    "export": ("swerl.cli.export:export", "A checkpoint as a Hugging Face directory, checked by loading it."),
    "node": ("swerl.cli.node:node", "Join a run of several machines, on each but the first."),
    "status": ("swerl.cli.status:status", "Where a run stands, or all runs."),
    "logs": ("swerl.cli.logs:logs", "What a run's processes print."),
    "dashboard": ("swerl.cli.dashboard:dashboard", "Show runs in a browser."),
    "report": ("swerl.cli.report:report", "One HTML file about a run, or several compared."),
    "stop": ("swerl.cli.stop:stop", "Let a run finish its step, save, and end."),
    "artifacts": ("swerl.cli.artifacts:artifacts", "Gather a run into artifacts/archives and the ledger."),
    "reproduce": ("swerl.cli.reproduce:reproduce", "Do a run again from its recordings, and compare bit for bit."),
    "clean": ("swerl.cli.clean:clean", "End what dead runs left, and remove runs on demand."),
    "config": ("swerl.cli.configuration:config", "Explain keys, migrate the reference's form, write the reference page."),
    "data": ("swerl.cli.data:data", "Make, check and sift task sets."),
    "policy": ("swerl.policy.__main__:main", "Build, continue or measure the demo policy."),
    "gateway": ("swerl.cli.gateway:gateway", "Check a recording against the policy that sampled it."),
    "env": ("swerl.cli.env:env", "The locked environment: verify, inventory, export, bundle."),
}


class Verbs(click.Group):
    """A group whose commands are named here and loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            from swerl.config.nearest import suggestion

            ctx.fail(f"there is no verb {args[0]!r}{suggestion(args[0], list(VERBS))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="swerl")
def cli() -> None:
    """Train a software-engineering agent with online RL, declared in one file: config.yaml.

    Begin with `swerl demo`. Every verb that reads a configuration takes --config FILE, --profile NAME and --set section.key=value."""


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code. Problems go to stderr, or as JSON to stdout where ``--json`` was asked for."""
    try:
        code = cli.main(args=list(arguments), prog_name="swerl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SwerlError as error:
        return _tell(error.problems, arguments)
    except click.ClickException as error:
        error.show()
        return error.exit_code if isinstance(error, click.UsageError) else 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except (OSError, sqlite3.OperationalError) as error:
        if (problem := of_storage(error)) is not None:
            return _tell([problem], arguments)
        raise


def of_storage(error: Exception) -> Problem | None:
    """What a disk that is full, failing or read-only is to the user; None for an error that is not the disk's."""
    number, text, where = getattr(error, "errno", None), str(error), str(getattr(error, "filename", None) or "")
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in text:
        return Problem("SWERL-R015", f"no room to write: {text}", "free space on that disk; the same command resumes", where)
    if number in (errno.EIO, errno.EROFS) or "disk I/O error" in text or "readonly database" in text:
        remedy = "see the kernel's log (dmesg); mend the disk, or have it mounted so that this user can write; the same command resumes"
        return Problem("SWERL-R052", f"the disk takes no more writing: {text}", remedy, where)
    return None


def _tell(problems: Sequence[Problem], arguments: Sequence[str]) -> int:
    if "--json" in arguments:
        from swerl.cli.options import say_json

        say_json({"ok": False, "problems": [problem.as_dict() for problem in problems]})
    else:
        for problem in problems:
            click.echo(str(problem), err=True)
    return 1
