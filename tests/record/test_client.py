"""One client for a run's services: what is away is asked again, what says no is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from swerl.errors import Problem, SwerlError
from swerl.record.client import Away, Refused, Service
from swerl.trials.gateway import Closed, GatewayAdmin, GatewayRefused, GatewayUnreachable

Answer = tuple[int, bytes]
GOOD: Answer = (200, b'{"turns": 3, "hold_s": 0.5}')
CLOSED: Answer = (200, b'{"turns": 3, "hold_s": 0.5, "overflow": false, "max_turns": true, "unanswered": 2, "silent_s": null}')


def talk(tmp_path: Path, answers: list[Answer], body: Callable[[Path], Awaitable[Any]], announce_s: float = 0.0) -> tuple[Any, list[str]]:
    """Run ``body`` beside a service that gives these answers in turn (the last for ever); also the tokens it was asked with."""
    tokens: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        status, data = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 401:  # a successor has announced itself meanwhile
            announce("new")
        return web.Response(status=status, body=data)

    async def main() -> Any:
        nonlocal announce
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

        def announce(token: str) -> None:
            gateway = {"admin_url": url, "admin_token": token, "public_url": f"{url}/"}
            (tmp_path / "services.json").write_bytes(orjson.dumps({"gateway": gateway, "runner": {"url": url, "token": token}}))

        try:
            asyncio.get_running_loop().call_later(announce_s, announce, "old")
            async with asyncio.timeout(30):
                return await body(tmp_path / "services.json")
        finally:
            await runner.cleanup()

    announce: Callable[[str], None]
    return asyncio.run(main()), tokens


def runner_call(patience_s: float = 10.0) -> Callable[[Path], Awaitable[Any]]:
    async def body(services: Path) -> Any:
        service = Service(services, "runner", patience_s)
        try:
            return await service.call("POST", "/trials", {"n": 1})
        finally:
            await service.close()

    return body


@pytest.mark.parametrize(
    "first", [(502, b""), (503, b"busy"), (504, b""), (200, b"<html>"), (200, b'{"cut')], ids=["502", "503", "504", "page", "cut"]
)
def test_who_is_not_there_is_asked_again(tmp_path: Path, first: Answer):
    found, tokens = talk(tmp_path, [first, first, GOOD], runner_call())
    assert found == {"turns": 3, "hold_s": 0.5} and len(tokens) == 3


def test_the_successor_is_asked_with_its_own_token(tmp_path: Path):
    found, tokens = talk(tmp_path, [(401, b""), GOOD], runner_call())
    assert found["turns"] == 3 and tokens == ["old", "new"]


@pytest.mark.parametrize("before", [None, b"", b'{"runner": ', b"{}", b'{"runner": null}'])
def test_a_service_may_announce_itself_later(tmp_path: Path, before: bytes | None):
    if before is not None:
        (tmp_path / "services.json").write_bytes(before)
    found, tokens = talk(tmp_path, [GOOD], runner_call(), announce_s=0.4)
    assert found["turns"] == 3 and len(tokens) == 1


def test_patience_ends_with_the_reason(tmp_path: Path):
    with pytest.raises(Away, match=r"SWERL-R101 the runner has been away for 0 s \(it answers 503\)"):
        talk(tmp_path, [(503, b"")], runner_call(patience_s=0.3))
    (tmp_path / "services.json").unlink()
    with pytest.raises(Away, match="it has not announced itself"):
        talk(tmp_path, [GOOD], runner_call(patience_s=0.3), announce_s=20.0)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500])
def test_a_no_is_told_at_once_in_the_services_words(tmp_path: Path, status: int):
    with pytest.raises(Refused, match=rf"SWERL-R102 the runner refused POST /trials: {status} not so"):
        talk(tmp_path, [(status, b"not so")], runner_call())
    problem = Problem("SWERL-T041", "the breaker is open", "mend the cause")
    with pytest.raises(SwerlError) as raised:
        talk(tmp_path, [(status, orjson.dumps({"problems": [problem.as_dict()]}))], runner_call())
    assert list(raised.value.problems) == [problem]


def test_the_runners_line_to_the_gateway_is_the_same_one(tmp_path: Path):
    """With types of its own, by which an attempt's outcome is found."""

    async def body(services: Path) -> Any:
        admin = GatewayAdmin(services, patience_s=0.3)
        while not services.exists():
            await asyncio.sleep(0.01)
        try:
            url = admin.public_url()
            try:
                return url, await admin.close("s", "agent_end")
            except (GatewayUnreachable, GatewayRefused) as error:
                return url, error
        finally:
            await admin.shut()

    (url, closed), tokens = talk(tmp_path, [(401, b""), (504, b""), CLOSED], body)
    assert closed == Closed(3, 0.5, {}, False, True, 2, None)
    assert tokens == ["old", "new", "new"] and not url.endswith("/")
    (_, error), _ = talk(tmp_path, [(503, b"")], body)
    assert type(error) is GatewayUnreachable and "503" in str(error)
    (_, error), _ = talk(tmp_path, [(404, b"no session")], body)
    assert type(error) is GatewayRefused and "404 no session" in str(error)


def test_nobody_is_no_address(tmp_path: Path):
    with pytest.raises(GatewayUnreachable):
        GatewayAdmin(tmp_path / "services.json").public_url()
