"""The page as a person meets it, in headless Chromium: every panel, light, dark and on a phone; keys; a run that grows; hostile text.

Pictures of every panel are left in build/screens. Needs Debian's ``chromium``: without it the one test that every run of the suite makes
is passed over, and the others, which are asked for by name, fail.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from tests.dashboard.dashkit import serving
from tests.report.conftest import HOSTILE, make

from .chrome import Chrome, binary

long = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "build" / "screens"
AUDIT = Path(__file__).with_name("audit.js").read_text()
PANELS = ("overview", "curves", "tasks", "trials", "trial", "engine", "cost", "logs")
LOOKS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390, "height": 844, "phone": True}}
DELAY_S = 2.0


@pytest.fixture(autouse=True)
def chromium(request: pytest.FixtureRequest) -> None:
    if binary() is None:
        say = pytest.fail if request.node.get_closest_marker("long") else pytest.skip
        say("the page is not looked at without a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made run with transcripts of its last trials."""
    return make(tmp_path_factory.mktemp("seen"), "first")


@asynccontextmanager
async def page(run: Path, **look: object) -> AsyncIterator[tuple[Chrome, str]]:
    async with serving(run.parent) as (server, _), Chrome() as chrome:
        await chrome.look(**look)  # type: ignore[arg-type]
        yield chrome, server.url.rstrip("/")


def key_of(run: Path, version: str = "L1:8") -> str:
    lines = map(orjson.loads, (run / "trials" / "journal.jsonl").read_bytes().splitlines())
    results = [line["result"] for line in lines if line["kind"] == "settled"]
    return next(r["trial_name"] for r in results if r["identity"]["version"] == version and r["graded"])


@pytest.mark.parametrize("look", [pytest.param(look, marks=pytest.mark.slow if look == "light" else long) for look in LOOKS])
def test_every_panel_shows_itself_without_complaint(run: Path, look: str) -> None:
    async def go() -> None:
        found = {}
        async with page(run, **LOOKS[look]) as (chrome, url):
            for panel in PANELS:
                query = {"trial": f"?key={key_of(run)}", "trials": "?step=8"}.get(panel, "")
                await chrome.open(f"{url}/#/first/{panel}{query}")
                await chrome.settle()
                text = await chrome.run("document.querySelector('main').innerText")
                assert await chrome.run("document.querySelector('.page').offsetHeight") == await chrome.run("innerHeight"), panel
                assert len(text) > 80 and "undefined" not in text and "NaN" not in text and "[object" not in text, (panel, text)
                await chrome.picture(SCREENS / f"{look}-{panel}.png")
                found[panel] = await chrome.run(AUDIT)
            assert {panel: said for panel, said in found.items() if said} == {}
            assert chrome.complaints == []
            assert {request for request in chrome.requests if not request.startswith((url, "data:", "about:"))} == set()

    asyncio.run(go())


@long
def test_panels_say_what_the_files_say(run: Path) -> None:
    settled = [
        orjson.loads(line)["result"] for line in (run / "trials" / "journal.jsonl").read_bytes().splitlines() if b'"settled"' in line
    ]
    last = [r for r in settled if r["identity"]["split"] == "val" and r["identity"]["version"] == "L1:8" and r["graded"]]
    rate = 100 * sum(r["reward"] == 1.0 for r in last) / len(last)

    async def go() -> None:
        async with page(run) as (chrome, url):
            await chrome.open(f"{url}/#/first/curves")
            await chrome.until(f"document.querySelector('main')?.innerText.includes('{rate:.1f} %')")
            await chrome.open(f"{url}/#/first/trials")
            train = sum(r["identity"]["split"] == "train" for r in settled)
            await chrome.until(f"document.querySelector('main')?.innerText.includes('{train} trials')")
            await chrome.open(f"{url}/#/first/trial?key={key_of(run)}")
            await chrome.until("document.querySelector('.transcript')?.innerText.includes('plain words')")

    asyncio.run(go())


@long
def test_keyboard_alone_is_enough(run: Path) -> None:
    """Tab goes through what is there in the order of the page, focus is to be seen, numbers choose panels, / searches."""
    where = "(() => { const e = document.activeElement; const box = e.getBoundingClientRect(); return [e.className || e.tagName, [...document.querySelectorAll('*')].indexOf(e), box.width > 0, getComputedStyle(e).outlineStyle]; })()"  # noqa: E501

    async def go() -> None:
        async with page(run) as (chrome, url):
            await chrome.open(f"{url}/#/first/overview")
            await chrome.settle()
            order = []
            for _ in range(14):
                await chrome.press("Tab")
                order.append(await chrome.run(where))
            assert order[0][0] == "skip"
            places = [place for _, place, _, _ in order]
            assert places == sorted(places) and len(set(places)) == len(places)
            assert all(wide and outline != "none" for _, _, wide, outline in order), order
            for number, panel in ((2, "curves"), (4, "trials"), (7, "logs"), (1, "overview")):
                await chrome.press(str(number))
                await chrome.until(f"location.hash.startsWith('#/first/{panel}')")
            await chrome.press("4")
            await chrome.until("document.querySelector('input[type=search]')")
            await chrome.press("/")
            await chrome.until("document.activeElement.type === 'search'")
            assert chrome.complaints == []

    asyncio.run(go())


@long
def test_theme_is_kept(run: Path) -> None:
    async def go() -> None:
        async with page(run) as (chrome, url):
            await chrome.open(f"{url}/#/first/overview")
            await chrome.settle()
            ground = "getComputedStyle(document.body).backgroundColor"
            bright = await chrome.run(ground)
            await chrome.press("t")
            await chrome.press("t")
            await chrome.until(f"{ground} !== {bright!r}")
            await chrome.call("Page.reload")
            await chrome.until(f"document.querySelector('main') && {ground} !== {bright!r}")

    asyncio.run(go())


@long
def test_a_run_that_grows_is_seen_growing(run: Path, tmp_path: Path) -> None:
    """Lines appended to metrics and events are on the page within two seconds (longer only on a machine that is busy with other work)."""
    grown = make(tmp_path, "first")

    async def go() -> float:
        async with page(grown) as (chrome, url):
            await chrome.open(f"{url}/#/first/overview")
            await chrome.settle()
            worst = 0.0
            for step in (9, 10, 11):
                row = {"step": step, "lineage": "L1", "data": {"timing_s/step": 60.0, "critic/score/mean": 0.5}}
                with (grown / "metrics.jsonl").open("ab") as file:
                    file.write(orjson.dumps(row) + b"\n")
                began = time.monotonic()
                await chrome.until(f"document.querySelector('.strip')?.innerText.includes('step {step}')", 30)
                worst = max(worst, time.monotonic() - began)
            event = {
                "time": time.time(),
                "source": "supervisor",
                "kind": "process.died",
                "process": "gateway",
                "how": "killed",
                "next": "again",
            }
            with (grown / "events" / "supervisor.jsonl").open("ab") as file:
                file.write(orjson.dumps(event) + b"\n")
            await chrome.until("document.querySelector('.alarms')?.innerText.includes('gateway died')", 30)
            assert chrome.complaints == []
            return worst

    busy = max(1.0, 3 * os.getloadavg()[0] / (os.cpu_count() or 1))
    assert asyncio.run(go()) <= DELAY_S * busy


@long
def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = make(tmp_path, "first", words=HOSTILE)

    async def go() -> None:
        async with page(run) as (chrome, url):
            await chrome.open(f"{url}/#/first/trial?key={key_of(run)}")
            await chrome.until("document.querySelector('.transcript')?.innerText.includes('<script>alert(1)</script>')")
            assert await chrome.run("document.querySelectorAll('main script, main img, main style').length") == 0
            assert not [request for request in chrome.requests if "evil" in request]
            assert chrome.complaints == []

    asyncio.run(go())


@long
def test_a_report_opens_from_the_disk(run: Path, tmp_path: Path) -> None:
    from swerl.record.rundir import RunDir
    from swerl.report import summary_of, write_report

    written = write_report(tmp_path, {"first": summary_of(RunDir.at(run))})

    async def go() -> None:
        async with Chrome() as chrome:
            for look, how in LOOKS.items():
                await chrome.look(**how)  # type: ignore[arg-type]
                await chrome.open(written.page.as_uri())
                await chrome.until("document.querySelectorAll('svg.plot').length > 10")
                await chrome.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
                assert await chrome.run(AUDIT) == [], look
            assert chrome.complaints == []
            assert all(request.startswith(("file:", "about:")) for request in chrome.requests)

    asyncio.run(go())
