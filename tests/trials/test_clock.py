"""Deadlines that stand still while the engine or the gateway is away."""

import asyncio
import time

import pytest
from trialkit import FakeGateway

from swerl.trials.clock import GatewayWatch, OutOfTime, within
from swerl.trials.gateway import GatewayAdmin


async def nothing():
    return 0.0


def test_in_time_and_out_of_time():
    async def main():
        await within(asyncio.sleep(0.01), 1.0, nothing)
        await within(asyncio.sleep(0.01), None, nothing)
        cleaned = []

        async def slow():
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.append(True)

        began = time.monotonic()
        with pytest.raises(OutOfTime):
            await within(slow(), 0.1, nothing)
        assert cleaned and time.monotonic() - began < 5

    asyncio.run(main())


def test_a_hold_longer_than_the_limit_changes_nothing():
    async def main():
        began = time.monotonic()

        async def held_s():  # all of the time that passes is the engine's
            return time.monotonic() - began

        async def work():
            await asyncio.sleep(1.0)

        await within(work(), 0.1, held_s)

    asyncio.run(main())


def test_errors_and_cancellation_pass_through():
    async def main():
        async def broken():
            raise KeyError("x")

        with pytest.raises(KeyError):
            await within(broken(), 1.0, nothing)
        inner = asyncio.Event()

        async def waits():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                inner.set()
                raise

        task = asyncio.create_task(within(waits(), 60.0, nothing))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inner.is_set()

    asyncio.run(main())


def test_the_watch_counts_the_time_without_a_gateway(tmp_path, monkeypatch):
    monkeypatch.setattr("swerl.trials.clock.PROBE_S", 0.05)

    async def main():
        gateway = FakeGateway(tmp_path / "services.json")
        watch = GatewayWatch(GatewayAdmin(tmp_path / "services.json").public_url)
        watch.start()
        await gateway.start()
        await asyncio.sleep(0.2)
        began = time.monotonic()
        assert not watch.down and watch.away_s(began) == 0.0
        await gateway.stop()
        await asyncio.sleep(0.5)
        assert watch.down and 0.2 < watch.away_s(began) < 1.0
        await gateway.start()
        await asyncio.sleep(0.2)
        assert not watch.down
        settled = watch.away_s(began)
        await asyncio.sleep(0.1)
        assert watch.away_s(began) == settled
        await watch.stop()
        await gateway.stop()

    asyncio.run(main())


def test_an_answer_between_two_probes_is_from_a_gateway_that_is_back(tmp_path, monkeypatch):
    """When it came back is known to within a probe: what was answered after the last bad one was answered, unseen by a good one."""
    monkeypatch.setattr("swerl.trials.clock.PROBE_S", 0.4)

    async def main():
        gateway = await FakeGateway(tmp_path / "services.json").start()
        watch = GatewayWatch(GatewayAdmin(tmp_path / "services.json").public_url)
        watch.start()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await gateway.stop()
        while not watch.down:
            await asyncio.sleep(0.005)
        during = began + 0.01
        await gateway.start()
        answered = time.monotonic()
        assert watch.down  # nobody has looked yet
        while watch.down:
            await asyncio.sleep(0.005)
        (absence,) = watch.absences(began, time.monotonic())
        assert during < absence.missed < answered < absence.end and absence.start == began
        assert watch.absences(time.monotonic(), time.monotonic() + 1) == []
        await watch.stop()
        await gateway.stop()

    asyncio.run(main())
