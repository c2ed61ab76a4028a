"""What to do now, as a command that can be pasted: quoted for a shell, with the options that were given, without a secret.

Commands are strings of a shell. ``program`` is what this program is called from here: by its name only where a shell finds it by that.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from swerl.cli.finding import find_runs_dir
from swerl.cli.options import Chosen
from swerl.config.schema import keys
from swerl.record.redact import HIDDEN, redact
from swerl.record.rundir import RunDir

DEFAULT = Chosen(Path("config.yaml"), None, {})


def swerl(*words: object, chosen: Chosen = DEFAULT) -> str:
    """``swerl WORDS`` with the choice of a configuration; words that are None or empty are left out."""
    given = [shlex.quote(str(word)) for word in words if word not in (None, "")]
    return " ".join([program(), *given, *_choice(chosen)])


def of_run(verb: str, run: RunDir, *words: object) -> str:
    """A verb about ``run``, wherever it is kept."""
    known = find_runs_dir(DEFAULT, None)
    place = () if run.root.parent == known else ("--runs-dir", run.root.parent)
    return swerl(verb, run.id, *place, *words)


def say_next(*commands: str, first: str = "") -> None:
    """The last words of a verb. ``first``: what has to be done before, by hand."""
    click.echo("next: " + "\n      ".join([f"{first}, then", *commands] if first else commands))


def program() -> str:
    own = Path(sys.executable).with_name("swerl")
    found = shutil.which("swerl")
    if found is not None and Path(found).resolve() == own.resolve():
        return "swerl"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def _choice(chosen: Chosen) -> list[str]:
    words = [] if chosen.file == DEFAULT.file else ["--config", shlex.quote(str(chosen.file))]
    words += ["--profile", shlex.quote(chosen.profile)] if chosen.profile else []
    for key, value in chosen.overrides.items():
        words += ["--set", _pair(key, value)]
    return words


def _pair(key: str, value: str) -> str:
    """A secret is taken from the environment instead, and a shell that has none there says so."""
    known = keys().get(key)
    if known is not None and known.secret and known.env:
        return f'{shlex.quote(key)}="${{{known.env}:?}}"'
    pair = f"{key}={value}"
    return shlex.quote(HIDDEN.join([f"{key}=", ""]) if known is not None and known.secret else redact(pair, []))
