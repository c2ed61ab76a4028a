"""docs/grafana.json asks /metrics for what it has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp

from tests.dashboard.dashkit import with_server

FILE = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"
# Told by a real trainer or host and not by the made run.
ELSEWHERE = {"swerl/val/resolve_rate", "swerl/val/resolve_rate/low", "swerl/val/resolve_rate/high"}


def test_every_panel_finds_its_families_and_names(run_dir: Path) -> None:
    dashboard = json.loads(FILE.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 12

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{url}/api/run/made/overview") as answer:
            assert answer.status == 200
        async with http.get(f"{url}/metrics") as answer:
            text = await answer.text()
        families = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)) | {
            "swerl_run_step",
            "swerl_run_total_steps",
        }  # live runs have them
        names = set(re.findall(r'name="([^"]+)"', text)) | ELSEWHERE
        for query in queries:
            assert set(re.findall(r"swerl_\w+", query)) <= families, query
            assert set(re.findall(r'name="([^"]+)"', query)) <= names, query

    with_server(run_dir.parent, ask)
