"""The coverage table tells the truth: every number a check claims is planted by a test, and the page is up to date."""

from __future__ import annotations

from pathlib import Path

from swerl.preflight.faults import ELSEWHERE, SYMPTOMS, claimed, page, planted, table

HERE = Path(__file__).parent


def test_every_claimed_number_is_planted():
    names = planted(HERE)
    known = claimed()
    assert known == set(names), f"claimed and not planted: {sorted(known - set(names))}; planted and not: {sorted(set(names) - known)}"


def test_every_catalogued_failure_has_one_row():
    assert sorted(SYMPTOMS) == list(range(1, 55))
    rows = table(HERE)
    assert [r.number for r in rows] == sorted(SYMPTOMS)
    assert {r.number for r in rows if r.how in ("preflight", "watchdog")}.isdisjoint(ELSEWHERE)


def test_page_is_up_to_date():
    written = (HERE.parents[1] / "docs" / "faults.md").read_text()
    assert written == page(HERE), "write it anew: python -m swerl.preflight.docs"


def test_how_many(capsys):
    rows = table(HERE)
    before, within = sum(r.how == "preflight" for r in rows), sum(r.how == "watchdog" for r in rows)
    with capsys.disabled():
        print(f"\n{before + within} of {len(rows)} catalogued failures are planted and named: {before} before launch, {within} in the run")
    assert before + within >= 45
