"""Which metrics are shown, in which groups: ``panels.json`` is read by the page's build, the reports and ``scripts/wandb_view.py``.

``UNITS`` maps each metric to how its values read: a number, a share in per cent, or seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import orjson

GROUPS: list[dict[str, Any]] = orjson.loads((files("swerl.dashboard") / "panels.json").read_bytes())
UNITS: Mapping[str, str] = {curve["name"]: curve["unit"] for group in GROUPS for curve in group["curves"]}
