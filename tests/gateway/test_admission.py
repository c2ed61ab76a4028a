"""Order and bounds of admission, as a property and by example."""

from __future__ import annotations

import asyncio
import random

import pytest

from swerl.gateway.admission import PATIENCE, Admission


class Line:
    """Turns that stay inside until they are told to end; ``entered`` is the order they came in."""

    def __init__(self, admission: Admission):
        self.admission, self.entered = admission, []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task] = {}

    async def ask(self, name: str, session: str, tokens: int) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._turn(name, session, tokens))
        await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self.tasks[name] for name in names))
        await asyncio.sleep(0)

    async def _turn(self, name: str, session: str, tokens: int) -> None:
        async with self.admission.place(session, tokens):
            self.entered.append(name)
            await self._ends[name].wait()


def test_a_resident_prefix_goes_first_and_nobody_waits_for_ever():
    async def main():
        line = Line(Admission(1, kv_tokens=100))
        await line.ask("a0", "a", 40)
        await line.ask("stranger", "b", 40)
        await line.ask("a1", "a", 45)
        await line.end("a0")
        assert line.entered == ["a0", "a1"]
        for i in range(2, PATIENCE + 3):
            await line.ask(f"a{i}", "a", 45)
            await line.end(f"a{i - 1}")
            if "stranger" in line.entered:
                break
        assert line.entered.index("stranger") == PATIENCE + 1
        for task in line.tasks.values():
            task.cancel()

    asyncio.run(main())


def test_the_cache_is_not_overfilled_and_a_giant_goes_alone():
    async def main():
        line = Line(Admission(8, kv_tokens=100))
        for name, tokens in (("a", 60), ("b", 60), ("c", 40), ("giant", 500)):
            await line.ask(name, name, tokens)
        assert line.entered == ["a"]
        await line.end("a")
        assert line.entered == ["a", "b", "c"]
        await line.end("b")
        assert line.entered == ["a", "b", "c"]
        await line.end("c")
        assert line.entered == ["a", "b", "c", "giant"] and line.admission.inside_tokens == 500
        await line.end("giant")
        assert (line.admission.inside, line.admission.inside_tokens) == (0, 0)

    asyncio.run(main())


def test_a_session_with_many_requests_does_not_crowd_out_the_others():
    async def main():
        line = Line(Admission(2))
        for i in range(4):
            await line.ask(f"swarm{i}", "swarm", 1)
        await line.ask("single", "single", 1)
        assert line.entered == ["swarm0", "swarm1"]
        await line.end("swarm0")
        assert line.entered[-1] == "single"
        for task in line.tasks.values():
            task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kv_tokens", [0, 50])
def test_bounds_hold_and_everybody_gets_in_or_leaves(seed, kv_tokens):
    async def main():
        rng, admission = random.Random(seed), Admission(3, kv_tokens)
        served = cancelled = 0

        async def turn(session: str, tokens: int) -> None:
            nonlocal served
            async with admission.place(session, tokens):
                assert admission.inside <= 3
                assert not kv_tokens or admission.inside_tokens <= kv_tokens or admission.inside == 1
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                served += 1

        tasks = []
        for _ in range(80):
            tasks.append(asyncio.create_task(turn(f"s{rng.randrange(6)}", rng.randrange(1, 60))))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
            if rng.random() < 0.2:
                rng.choice(tasks).cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
            cancelled += result is not None
        assert served + cancelled >= 80 and (admission.inside, admission.inside_tokens) == (0, 0)
        assert not admission._inside_of and not admission._waiting

    asyncio.run(main())
