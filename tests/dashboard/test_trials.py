"""The list of trials: whichever index answers, it is what walking through all of them gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swerl.dashboard.context import Seen
from swerl.dashboard.index import RunIndex, wait_until_read
from swerl.dashboard.views import trials
from swerl.record.rundir import RunDir

WHERES = (
    {},
    {"split": "val"},
    {"split": "train", "step": 3},
    {"outcome": "agent_timeout"},
    {"fate": "no signal", "split": "train"},
    {"text": "off-by-one"},
    {"text": "SandboxStart"},
    {"text": "no_such%word"},
    {"text": "off-by-one", "split": "val", "resolved": True},
    {"findings": True},
    {"findings": True, "resolved": False},
    {"resolved": False, "outcome": "completed"},
)
FIELDS = {"newest": "settled", "slowest": "total_s", "turns": "turns", "tokens": "sampled_tokens", "reward": "reward"}


@pytest.fixture(scope="module")
def seen(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    index = RunIndex(RunDir.at(made), tmp_path_factory.mktemp("index") / "index.sqlite")
    wait_until_read(index)
    with index.reading() as db:
        yield Seen(index.run, db)
    index.close()


def fits(row: dict, where: dict) -> bool:
    return (
        all(row[name] == where[name] for name in ("split", "step", "outcome", "fate") if name in where)
        and (not where.get("findings") or row["findings"] > 0)
        and ("resolved" not in where or (row["reward"] is not None and (row["reward"] >= 1) == where["resolved"]))
        and ("text" not in where or where["text"].lower() in f"{row['key']} {row['error']}".lower())
    )


@pytest.mark.parametrize("few", [0, 20, 5000])
@pytest.mark.parametrize("order", FIELDS)
def test_every_way_to_a_list_gives_the_same(seen: Seen, order: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "FEW", few)
    everything = [dict(row) for row in seen.rows("SELECT * FROM trials")]
    for where in WHERES:
        wanted = [row for row in everything if fits(row, where)]
        found = trials.listed(seen, where=where, order=order, limit=500, offset=0)
        values = [row[FIELDS[order]] for row in found["trials"]]
        assert found["total"] == len(wanted) and {row["key"] for row in found["trials"]} == {row["key"] for row in wanted}, where
        assert values == sorted(values, key=lambda value: (value is not None, value), reverse=True), where
        half = len(wanted) // 2
        rest = trials.listed(seen, where=where, order=order, limit=500, offset=half)
        assert [row[FIELDS[order]] for row in rest["trials"]] == values[half:], where
        assert trials.listed(seen, where=where, order=order, limit=500, offset=len(wanted))["trials"] == []
