# /// script
# requires-python = ">=3.12"
# dependencies = ["wandb==0.31.0", "wandb-workspaces==0.4.13"]
# ///
"""The dashboard's panels as a saved view of a W&B project: ``make wandb-view TO=ENTITY/PROJECT``, or ``uv run scripts/wandb_view.py``.

A script of its own, with requirements of its own: it runs wherever the checkout and a network are, for example on a laptop, and adds
nothing to the environments that train. The key is W&B's (``WANDB_API_KEY`` or ``wandb login``). Runs of the project keep their names; the
view is there for every run that is sent later. ``--view URL`` renews a view that was made before, ``--dry-run`` prints what would be sent.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

PANELS = Path(__file__).resolve().parents[1] / "swerl" / "dashboard" / "panels.json"
# What the page counts from the journals itself, as swerl/trainer/journal.py tells it to the loggers: title, metrics of one panel.
RESULTS = (
    ("Resolve rate, validation", ("swerl/val/resolve_rate", "swerl/val/resolve_rate/low", "swerl/val/resolve_rate/high")),
    ("Coverage of validations", ("swerl/val/coverage",)),
    ("Trials", ("swerl/trials/count", "swerl/trials/in_loss")),
    ("Seconds of a trial", tuple(f"swerl/trials/{phase}_s/mean" for phase in ("queue", "setup", "agent", "verifier"))),
)
ACROSS, DOWN = 3, 2  # panels of a section before it has pages


def layout() -> list[tuple[str, list[tuple[str, tuple[str, ...]]]]]:
    """Sections in their order: title, and panels as (title, metrics)."""
    groups = json.loads(PANELS.read_text())
    shared = [(group["title"], [(curve["name"], (curve["name"],)) for curve in group["curves"]]) for group in groups]
    return [("What it learned", list(RESULTS)), *shared]


def sections() -> list[Any]:
    import wandb_workspaces.reports.v2 as parts
    import wandb_workspaces.workspaces as spaces

    grid = spaces.SectionLayoutSettings(columns=ACROSS, rows=DOWN)
    return [
        spaces.Section(
            name=name,
            panels=[parts.LinePlot(title=title, x="Step", y=list(metrics)) for title, metrics in panels],
            is_open=True,
            layout_settings=grid,
        )
        for name, panels in layout()
    ]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="experiment.project_name, behind the user or team that it belongs to")
    parser.add_argument("--name", default="swerl", help="name of a new view")
    parser.add_argument("--view", metavar="URL", help="renew this view of the project instead of making one")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent; needs no key and no network")
    given = parser.parse_args(words)
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", given.project):
        parser.error(f"{given.project!r} is not ENTITY/PROJECT")
    if given.view and "?nw=" not in given.view:
        parser.error(f"{given.view!r} is no saved view: its address ends in ?nw=...")
    try:
        import wandb
        import wandb_workspaces.workspaces as spaces
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing; `uv run {Path(__file__).name} ...` brings what the script needs", file=sys.stderr)
        return 1
    try:
        return make(spaces, given)
    except (wandb.Error, ValueError) as error:
        print(f"no view was made: {error}", file=sys.stderr)
        return 1


def make(spaces: Any, given: argparse.Namespace) -> int:
    """``spaces`` is wandb_workspaces.workspaces. Raises wandb.Error for a key, a project or a network that is not there."""
    entity, _, project = given.project.partition("/")
    if given.view and not given.dry_run:
        workspace = spaces.Workspace.from_url(given.view)
        if (workspace.entity, workspace.project) != (entity, project):
            raise ValueError(f"{given.view} is of {workspace.entity}/{workspace.project}")
        workspace.sections = sections()
    else:
        workspace = spaces.Workspace(entity=entity, project=project, name=given.name, sections=sections())
    if given.dry_run:
        print(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))
        return 0
    workspace.save()  # which tells the view's address
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
