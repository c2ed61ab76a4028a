"""A live run watched while it trains, as a person would: the page that `swerl train` prints, from the first event to the last.

Pictures are left in build/screens. Needs Debian's ``chromium``.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from tests.browser.chrome import Chrome, binary

pytestmark = pytest.mark.long
SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
STEPS = 3
TOLD_S = 10.0  # two seconds are promised on a machine with a core to spare; here trainer, engine and browser share two
PANELS = ("curves", "tasks", "trials", "engine", "cost", "logs", "overview")


def test_the_page_follows_a_run_that_trains(run_of):
    if binary() is None:
        pytest.fail("this test needs a browser: apt-get install chromium", pytrace=False)
    run = run_of("watched", **{"training.total_steps": str(STEPS), "training.test_freq": str(STEPS), "experiment.dashboard_port": "0"})
    run.start()
    delays = asyncio.run(watch(run))
    assert run.wait() == 0, run.output()
    assert run.leftovers() == []
    assert max(delays) <= TOLD_S, delays


async def watch(run) -> list[float]:
    """Seconds from a step's last event to its being on the page, for every step but the last: the page's server ends with the run."""
    delays = []
    async with Chrome() as chrome:
        await chrome.look()
        await asyncio.to_thread(run.await_event, "supervisor", "run.running")
        overview = await address(run)
        await chrome.open(overview)
        await chrome.until("document.querySelector('.strip')?.innerText.includes('running')", 60)
        await asyncio.to_thread(run.await_event, "trainer", "step.begin", step=1)
        await chrome.until("document.querySelector('.strip')?.innerText.includes('sampling trials')", 60)
        await chrome.picture(SCREENS / "live-sampling.png")
        for step in range(1, STEPS):
            ended = await asyncio.to_thread(run.await_event, "trainer", "step.end", step=step)
            await chrome.until(f"document.querySelector('.strip')?.innerText.includes('step {step} of {STEPS}')", 60)
            delays.append(time.time() - ended["time"])
            for panel in PANELS if step == 1 else ():
                await chrome.open(overview.replace("/overview", f"/{panel}"))
                await chrome.settle()
                text = await chrome.run("document.querySelector('main').innerText")
                assert len(text) > 40 and "undefined" not in text and "NaN" not in text and "[object" not in text, (panel, text)
                await chrome.picture(SCREENS / f"live-{panel}.png")
        assert chrome.complaints == []
    return delays


async def address(run) -> str:
    while not (found := re.search(r"dashboard (http\S+)", run.output())):
        await asyncio.sleep(0.1)
    return found[1]
