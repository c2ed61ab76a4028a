"""Clients that are slow, vanish, or never read: each gets one clear error or none, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import tracemalloc
import zlib
from contextlib import asynccontextmanager

import pytest
from gatewaykit import TOOLS, call_text, running

from swerl.gateway.engines.scripted import ScriptReply, ScriptTurn

TASK = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "f returns 2"}]
APIS = {
    "chat/completions": {"messages": TASK, "tools": TOOLS},
    "messages": {"max_tokens": 400, "messages": TASK[1:]},
    "responses": {"input": "f returns 2"},
}
LARGE_TOKENS = 120_000  # with log-probabilities asked for, an answer of more bytes than the sockets between the two hold


def says(turn: ScriptTurn) -> ScriptReply:
    return ScriptReply(text=f"answer {turn.turn}", delay_s=0.05)


def says_calls(turn: ScriptTurn) -> str:
    return call_text(f"cat -n file{turn.turn}.py")


def says_much(turn: ScriptTurn) -> ScriptReply:
    return ScriptReply(token_ids=[65] * LARGE_TOKENS, end=False)


class Raw:
    """A connection that sends what a test says, byte by byte if need be."""

    def __init__(self, kit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.kit, self.reader, self.writer = kit, reader, writer

    def head(self, key: str, api: str, length: int | None = None, *more: str) -> None:
        size = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
        lines = [f"POST /t/{key}/v1/{api} HTTP/1.1", "host: x", "content-type: application/json", size, *more]
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")

    def ask(self, key: str, api: str, body: dict) -> None:
        data = json.dumps({"model": "m", **body}).encode()
        self.head(key, api, len(data))
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), json.loads(await self.reader.readexactly(length))

    async def ended(self, within_s: float = 90) -> None:
        """The gateway closes the connection; what it had sent is read and thrown away."""

        async def drain() -> None:
            try:
                while await self.reader.read(1 << 16):
                    pass
            except ConnectionError:
                pass

        await asyncio.wait_for(drain(), within_s)


@asynccontextmanager
async def raw(kit, receive_bytes: int | None = None):
    host, port = kit.gateway.public_url.removeprefix("http://").split(":")
    line = socket.socket()
    if receive_bytes is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=line, limit=receive_bytes or 1 << 16)
    try:
        yield Raw(kit, reader, writer)
    finally:
        writer.transport.abort()


async def at_rest(kit, connections: int = 1) -> None:
    """Nothing is held for a client that is gone: no work, no claim on a turn, no place at the engine, no connection but the kit's own."""
    gateway = kit.gateway
    public = gateway._runners[1].server

    def busy() -> bool:
        held = any(s.works or s.delivering or s.lock.locked() for s in gateway.store.live())
        return held or bool(kit.engine._running) or len(public.connections) > connections

    async with asyncio.timeout(90):
        while busy():
            await asyncio.sleep(0.02)
    stats = gateway.gate.stats()
    assert [stats[name] for name in ("in_flight", "waiting", "admitted", "admitted_tokens")] == [0, 0, 0, 0]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_does_not_read_is_let_go_and_its_retry_gets_the_answer(tmp_path, model_dir, vllm_reader, stream):
    async def main():
        options = {"read_s": 0.5, "window_tokens": 1_000_000}
        async with running(tmp_path, model_dir, vllm_reader, says_much, **options) as kit:
            session, key = await kit.open()
            body = {"messages": TASK, "stream": stream, "logprobs": True, "return_token_ids": True}
            async with raw(kit, receive_bytes=4096) as client:
                client.ask(key, "chat/completions", body)
                async with asyncio.timeout(60):
                    while not kit.gateway.store.live()[0].tree.turns:
                        await asyncio.sleep(0.02)
                await at_rest(kit, connections=0)  # the client has not read a byte
                await client.ended()
            (turn,) = kit.gateway.store.live()[0].tree.turns
            assert not turn.delivered
            answer = await kit.chat(key, TASK, tools=None)
            assert answer["usage"]["completion_tokens"] == LARGE_TOKENS
            assert len(kit.engine.requests) == 1 and (await kit.recording(session))["turns"] == 1 and turn.delivered

    asyncio.run(main())


@pytest.mark.parametrize("api", APIS)
def test_a_body_that_does_not_come_is_told_so_in_the_apis_own_form(tmp_path, model_dir, vllm_reader, api):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says, body_s=0.4) as kit:
            session, key = await kit.open()
            async with raw(kit) as client:
                client.head(key, api, 5000)

                async def trickle() -> None:
                    while True:
                        client.writer.write(b"{")
                        await asyncio.sleep(0.05)

                dripping = asyncio.create_task(trickle())
                status, error = await asyncio.wait_for(client.answer(), 90)
                dripping.cancel()
                assert status == 408
                told = error["error"]
                assert "within 0.4 s" in told["message"] and (error["type"] == "error" if api == "messages" else told["code"])
            async with kit.client.post(f"{kit.gateway.public_url}/t/{key}/v1/{api}", json={"model": "m", **APIS[api]}) as response:
                assert response.status == 200
            assert (await kit.recording(session))["turns"] == 1
            await at_rest(kit)

    asyncio.run(main())


def test_a_connection_without_a_whole_head_is_closed(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says, idle_connection_s=0.4) as kit:
            _, key = await kit.open()
            async with raw(kit) as silent, raw(kit) as slow:
                slow.writer.write(f"POST /t/{key}/v1/messages HTTP/1.1\r\nhost: ".encode())
                await silent.ended()
                await slow.ended()
            await kit.chat(key, TASK)
            await at_rest(kit)

    asyncio.run(main())


@pytest.mark.parametrize("api", APIS)
def test_a_body_over_the_limit_is_refused_however_it_is_sent(tmp_path, model_dir, vllm_reader, api):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says, max_body_mb=1) as kit:
            session, key = await kit.open()
            packed = zlib.compressobj(wbits=31)
            bomb = packed.compress(bytes(64 << 20)) + packed.flush()
            big = b'"' + b"x" * (2 << 20)
            for more, data in (((), big), (("content-encoding: gzip",), bomb)):
                async with raw(kit) as client:
                    client.head(key, api, len(data), *more)
                    client.writer.write(data)
                    status, error = await asyncio.wait_for(client.answer(), 90)
                    assert status == 413 and "1 MiB" in error["error"]["message"]
            async with raw(kit) as client:
                client.head(key, api)  # chunked, without an end
                for _ in range(40):
                    client.writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                status, _ = await asyncio.wait_for(client.answer(), 90)
                assert status == 413
            async with raw(kit) as client:  # what cannot be unpacked
                client.head(key, api, 100, "content-encoding: gzip")
                client.writer.write(b"\x00" * 100)
                status, error = await asyncio.wait_for(client.answer(), 90)
                assert status == 400
            async with kit.client.post(f"{kit.gateway.public_url}/t/{key}/v1/{api}", json={"model": "m", **APIS[api]}) as response:
                assert response.status == 200
            assert (await kit.recording(session))["turns"] == 1
            await at_rest(kit)

    asyncio.run(main())


def test_a_stranger_cannot_make_the_gateway_read_a_body(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says) as kit:
            async with raw(kit) as client:
                client.head("no-such-key", "messages", 60 << 20)
                status, error = await asyncio.wait_for(client.answer(), 90)  # at once, before a byte of the body
            assert status == 401 and error["error"]["type"] == "authentication_error"
            await at_rest(kit)

    asyncio.run(main())


@pytest.mark.slow
def test_a_storm_of_broken_clients_costs_nothing_that_lasts(tmp_path, model_dir, vllm_reader):
    """Clients that leave before, while and after they are answered, in every API; memory is as it was after a first such storm."""

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says, disconnect_grace_s=0.05, max_body_mb=1) as kit:
            session, key = await kit.open()
            kit.engine._keep_requests = False

            async def storm() -> None:
                async def one(i: int) -> None:
                    api = list(APIS)[i % 3]
                    async with raw(kit) as client:
                        if i % 5 == 0:
                            client.head(key, api, 1 << 19)
                            client.writer.write(b"x" * (1 << 18))
                        elif i % 5 == 1:
                            client.head(key, api, 2 << 20)
                            client.writer.write(b"x" * (2 << 20))
                        else:
                            client.ask(key, api, {**APIS[api], "stream": i % 2 == 0})
                        await asyncio.sleep(0.01 * (i % 8))

                await asyncio.gather(*(one(i) for i in range(60)))
                await asyncio.sleep(0.2)
                await at_rest(kit)

            async def settle() -> int:
                """Take the answers that nobody has read, so that each storm begins alike."""
                for api, body in APIS.items():
                    async with kit.client.post(f"{kit.gateway.public_url}/t/{key}/v1/{api}", json={"model": "m", **body}) as response:
                        assert response.status == 200
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            await storm()
            tracemalloc.start()
            try:
                await storm()
                before, turns = await settle(), len(kit.gateway.store.live()[0].tree.turns)
                for _ in range(4):
                    await storm()
                after, more = await settle(), len(kit.gateway.store.live()[0].tree.turns) - turns
            finally:
                tracemalloc.stop()
            assert after - before < 300_000 + 10_000 * more  # turns that were sampled are kept; the bodies alone were 40 MB
            assert await kit.recording(session)

    asyncio.run(main())


def test_a_client_that_cuts_its_history(tmp_path, model_dir, vllm_reader):
    """One that does not know the model's window drops the oldest messages at each turn: every turn is counted, and the path that would be
    trained holds a few of them. That is what the watchdog's SWERL-W109 goes by."""
    kept = 4

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says_calls) as kit:
            session, key = await kit.open()
            messages = []
            for _ in range(12):
                choice = (await kit.chat(key, [*TASK, *messages[-kept:]]))["choices"][0]
                call = choice["message"]["tool_calls"][0]
                messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "a line"}]
            recording = await kit.recording(session)
            main_path = recording["paths"][-1]
            assert recording["turns"] == 12 and main_path["turns"] <= 3
            assert len(main_path["prompt_ids"]) + len(main_path["response_ids"]) < 400

    asyncio.run(main())
