"""The coverage table tells the truth: every number a check claims is planted by a test, and the page is up to date."""

from __future__ import annotations

from pathlib import Path

from swerl.preflight.catalog import CHECKS
from swerl.preflight.faults import ELSEWHERE, SYMPTOMS, page, planted, table

HERE = Path(__file__).parent


def test_every_claimed_number_is_planted():
    names = planted(HERE)
    claimed = {number for check in CHECKS for number in check.faults}
    assert claimed == set(names), (
        f"claimed and not planted: {sorted(claimed - set(names))}; planted and not claimed: {sorted(set(names) - claimed)}"
    )


def test_every_catalogued_failure_has_one_row():
    assert sorted(SYMPTOMS) == list(range(1, 55))
    rows = table(HERE)
    assert [r.number for r in rows] == sorted(SYMPTOMS)
    assert {r.number for r in rows if r.how == "preflight"}.isdisjoint(ELSEWHERE)


def test_page_is_up_to_date():
    written = (HERE.parents[1] / "docs" / "faults.md").read_text()
    assert written == page(HERE), "write it anew: python -m swerl.preflight.docs"


def test_how_many(capsys):
    covered = sum(r.how == "preflight" for r in table(HERE))
    with capsys.disabled():
        print(f"\n{covered} of {len(SYMPTOMS)} catalogued failures are planted and named before launch")
    assert covered >= 40
