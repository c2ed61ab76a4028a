"""Promises that no single module keeps: on disk before the end is seen, sockets only where told, a turn costs what it adds."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import threading

import psutil
import pytest
from gatewaykit import TOOLS, call_text, gateway_on, running

from swerl.config import load
from swerl.config.schema import PROJECT_ROOT
from swerl.gateway import capacity, service
from swerl.gateway.settings import settings_from
from swerl.gateway.tokenizer import FastTokenizer
from swerl.record.events import read_events
from swerl.record.session_journal import Journal

TASK = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "f returns 2"}]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_sees_the_end_of_a_turn_when_it_is_on_disk_and_not_before(tmp_path, model_dir, vllm_reader, monkeypatch, stream):
    on_disk, real = threading.Event(), os.fdatasync

    def slow_disk(fd: int) -> None:
        on_disk.wait(60)
        real(fd)

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: "hi") as kit:
            session, key = await kit.open()
            monkeypatch.setattr("swerl.record.session_journal.os.fdatasync", slow_disk)
            url, seen = f"{kit.gateway.public_url}/t/{key}/v1/chat/completions", b""

            async def client() -> None:
                nonlocal seen
                async with kit.client.post(url, json={"model": "m", "messages": TASK, "stream": stream}) as response:
                    async for data in response.content.iter_any():
                        seen += data

            asked = asyncio.create_task(client())
            journal = tmp_path / "gateway" / "sessions" / f"{session}.jsonl"
            async with asyncio.timeout(60):
                while b'"k":"turn"' not in journal.read_bytes():
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert not asked.done() and b"hi" not in seen and b"[DONE]" not in seen
            assert (await kit.recording(session))["turns"] == 0
            on_disk.set()
            await asked
            assert b"hi" in seen and (await kit.recording(session))["turns"] == 1

    asyncio.run(main())


def test_it_listens_where_it_is_told_and_nowhere_else(tmp_path, model_dir, vllm_reader):
    def listening() -> set[tuple[str, int]]:
        connections = psutil.Process().net_connections("inet")
        return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN and c.type == socket.SOCK_STREAM}

    async def main():
        before = listening()
        async with gateway_on(tmp_path, model_dir, vllm_reader, host="127.0.0.2") as kit:
            opened = {f"http://{host}:{port}" for host, port in listening() - before}
            assert opened == {kit.gateway.public_url, kit.gateway.admin_url}
            assert kit.gateway.public_url.startswith("http://127.0.0.2:") and kit.gateway.admin_url.startswith("http://127.0.0.1:")
        assert listening() == before

    asyncio.run(main())


def test_the_limits_of_a_run_are_the_gateways(tmp_path):
    """Defaults as documented, and each value from the configuration."""

    def found(**set_: str) -> list[float]:
        keys = {f"gateway.{name}": value for name, value in set_.items()}
        s = settings_from(load(PROJECT_ROOT / "config.yaml", "demo-cpu", keys, env={}), tmp_path)
        return [s.max_body_mb, s.body_s, s.read_s, s.max_hold_s, s.keepalive_s, s.max_sessions, s.kv_cache_tokens]

    assert found() == [64, 300, 120, 3600, 10, 16384, 0]
    names = ("max_body_mb", "body_timeout_sec", "read_timeout_sec", "max_hold_sec", "keepalive_sec", "max_sessions", "kv_cache_tokens")
    assert found(**{name: str(5 + i) for i, name in enumerate(names)}) == [5, 6, 7, 8, 9, 10, 11]


def test_a_turn_costs_what_it_adds(tmp_path, model_dir, vllm_reader, monkeypatch):
    """An agent that only appends: characters tokenised and messages rendered per turn do not grow with the history."""
    encoded: list[int] = []
    real = FastTokenizer.encode
    monkeypatch.setattr(FastTokenizer, "encode", lambda self, text: (encoded.append(len(text)), real(self, text))[1])

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: call_text(f"ls {turn.turn:03}"), window_tokens=1 << 20) as kit:
            monkeypatch.setattr(kit.engine, "tokenizer", None)
            monkeypatch.setattr(kit.engine, "_tokens", lambda reply: tokens(reply.text))
            _, key = await kit.open()
            history, costs = list(TASK), []
            for i in range(60):
                encoded.clear()
                message = (await kit.chat(key, history))["choices"][0]["message"]
                costs.append(sum(encoded))
                result = f"line {i:03} of the file\n" * 20
                history += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": result}]
            return costs

    whole = vllm_reader._template.tokenizer

    def tokens(text: str) -> list[int]:
        return [*real(whole, text), whole.id_of("<|im_end|>")]

    costs = asyncio.run(main())
    assert costs[0] > len(TOOLS[0]["function"]["description"]), "the first turn renders the tools"
    assert max(costs[2:]) <= 1.2 * costs[1], "turn 60 tokenises what turn 2 does"


def test_every_promise_of_the_page_names_a_test_that_exists():
    page = (PROJECT_ROOT / "docs" / "gateway.md").read_text()
    named = re.findall(r"`((?:tests/\w+/)?test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 50
    for file, test in named:
        path = PROJECT_ROOT / file if "/" in file else PROJECT_ROOT / "tests" / "gateway" / file
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"


def test_a_full_disk_ends_none_of_the_services_tasks(tmp_path, model_dir, vllm_reader, monkeypatch, capsys):
    """Idle sessions, figures and the engine's capacity: what could not be written is tried again, and the sessions beside it go."""
    monkeypatch.setattr(service, "_IDLE_S", 0.5)
    monkeypatch.setattr(service, "_TELL_S", 0.05)
    monkeypatch.setattr(capacity, "ASK_S", 0.05)

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi", kv_cache_tokens=-1) as kit:
            kit.engine.kv_cache_tokens = 4096
            opened = [await kit.open() for _ in range(3)]
            full, writes = True, []
            real_write, real_emit = Journal.write, kit.gateway.events.emit

            def write(journal, *records):
                writes.append(journal)
                if full and journal is writes[0]:
                    raise OSError(errno.ENOSPC, "No space left on device")
                real_write(journal, *records)

            def emit(kind, **fields):
                if full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                real_emit(kind, **fields)

            monkeypatch.setattr(Journal, "write", write)
            monkeypatch.setattr(kit.gateway.events, "emit", emit)
            await asyncio.sleep(1.0)
            assert len(kit.gateway.store.live()) == 1 and len(opened) == 3, "the two whose journals can be written have left the memory"
            assert not any(task.done() for task in kit.gateway._tasks[1:])
            full = False
            kit.gateway._told = {}
            await asyncio.sleep(0.5)
            assert not kit.gateway.store.live()
            assert {"gateway.stats"} <= {event["kind"] for event in read_events(tmp_path / "gateway.jsonl")}

    asyncio.run(main())
    assert "Gateway._tell: OSError" in capsys.readouterr().err
