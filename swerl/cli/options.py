"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from swerl.config import Examined, RunConfig, examine, load


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which configuration the user named."""

    file: Path
    profile: str | None
    overrides: Mapping[str, str]

    def load(self) -> RunConfig:
        return load(self.file, self.profile, self.overrides)

    def examine(self) -> Examined:
        return examine(self.file, self.profile, self.overrides)

    def __str__(self) -> str:
        return f"{self.file}" + (f" with profile {self.profile}" if self.profile else "")


def config_options[F: Callable[..., Any]](function: F) -> F:
    """``--config``, ``--profile`` and ``--set``, handed over as ``chosen``."""

    def collect(ctx: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for pair in pairs:
            key, sign, value = pair.partition("=")
            if not sign or not key:
                raise click.BadParameter(f"{pair!r} is not section.key=value", ctx, parameter)
            found[key] = value
        return found

    def wrapped(*args: Any, config_file: Path, profile: str | None, overrides: dict[str, str], **rest: Any) -> Any:
        return function(*args, chosen=Chosen(config_file, profile or None, overrides), **rest)

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__click_params__ = getattr(function, "__click_params__", [])
    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--set", "overrides", multiple=True, callback=collect, metavar="KEY=VALUE", help="Set one key; repeatable."),
        click.option("--profile", metavar="NAME", help="Lay profiles/NAME.yaml over the configuration."),
        click.option("--config", "config_file", type=path, default=Path("config.yaml"), show_default=True, help="The run profile."),
    ):
        wrapped = option(wrapped)
    return wrapped


patience_option = click.option(
    "--patience", type=click.FloatRange(min=0.1), metavar="FACTOR", help="Multiply preflight's time limits; default: by the machine's load."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")


def say_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())
