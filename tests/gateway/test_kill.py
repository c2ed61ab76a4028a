"""The gateway is killed, or asked to end, while agents talk to it: nothing is lost, nothing is doubled, nobody is refused."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply, ScriptTurn, register, scripted_logprob

AGENTS, TURNS, MIN_KILLS, MAX_KILLS = 4, 20, 3, 7


def says(turn: ScriptTurn) -> ScriptReply:
    """Different words at each prompt, so that a doubled or lost turn cannot look like another."""
    return ScriptReply(text=f"step {len(turn.prompt_ids)} of {turn.session[:4]}", delay_s=0.03)


class Process:
    def __init__(self, model_dir: Path, run: Path, port: int):
        self.argv = [sys.executable, str(Path(__file__).parent / "killable.py"), str(model_dir), str(run), str(port)]
        self.run, self.port, self.child = run, port, None

    async def start(self) -> None:
        with (self.run / "gateway.log").open("ab") as log:
            self.child = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=log)
        while True:
            assert self.child.poll() is None, (self.run / "gateway.log").read_text()
            try:
                entry = json.loads((self.run / "services.json").read_bytes())["gateway"]
                if entry["pid"] == self.child.pid:
                    break
            except FileNotFoundError:
                pass
            await asyncio.sleep(0.02)
        self.entry = entry

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.child.send_signal(how)
        self.child.wait()


async def agent(client: aiohttp.ClientSession, url: str, key: str, rng: random.Random) -> tuple[list[dict], list[str]]:
    """Talks for TURNS turns, plain or streamed; on any trouble it just asks again. Returns the history and the ids of its answers."""
    history, ids = [{"role": "user", "content": "begin"}], []
    while len(ids) < TURNS:
        stream = rng.random() < 0.5
        body = {"model": "m", "messages": history, "stream": stream}
        try:
            async with client.post(f"{url}/t/{key}/v1/chat/completions", json=body) as response:
                raw = await response.text()
                assert response.status == 200, raw
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)
            continue
        if stream and not raw.rstrip().endswith("[DONE]"):
            continue
        events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")] if stream else [json.loads(raw)]
        text = "".join((e["choices"][0]["delta"].get("content") or "") if stream else e["choices"][0]["message"]["content"] for e in events)
        history += [{"role": "assistant", "content": text}, {"role": "user", "content": f"go on {len(ids)}"}]
        ids.append(events[0]["id"])
    return history, ids


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_kills_lose_and_double_nothing(tmp_path, model_dir, how):
    async def main():
        rng = random.Random(7)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = Process(model_dir, tmp_path, port)
        engine = ScriptedEngine(says, model_dir, version=4)
        await engine.start()
        await process.start()
        await register(engine, tmp_path / "services.json")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:

            async def admin(method: str, path: str, body: dict | None = None) -> dict:
                headers = {"Authorization": f"Bearer {process.entry['admin_token']}"}
                async with client.request(method, process.entry["admin_url"] + path, json=body, headers=headers) as response:
                    assert response.status == 200, await response.text()
                    return await response.json()

            opened = [await admin("POST", "/sessions", {"trial": {"sample": i}, "sampling": {}}) for i in range(AGENTS)]
            url = f"http://127.0.0.1:{port}"
            agents = [asyncio.create_task(agent(client, url, o["key"], random.Random(i))) for i, o in enumerate(opened)]
            kills = 0
            while not all(a.done() for a in agents) and kills < MAX_KILLS:
                await asyncio.sleep(rng.uniform(0.02, 0.4))
                await asyncio.to_thread(process.kill, how)
                await process.start()
                kills += 1
            assert kills >= MIN_KILLS
            told = await asyncio.gather(*agents)
            for (history, ids), session in zip(told, opened, strict=True):
                recording = await admin("GET", f"/sessions/{session['session']}/recording")
                assert recording["turns"] == TURNS == len(set(ids))
                (path,) = recording["paths"]
                decoded = engine.tokenizer.decode(path["prompt_ids"] + path["response_ids"], skip_special=False)
                for message in history[:-1]:
                    assert decoded.count(f"{message['content']}<|im_end|>") == 1
                start = len(path["prompt_ids"])
                for i, (token, mask) in enumerate(zip(path["response_ids"], path["response_mask"], strict=True)):
                    assert path["response_logprobs"][i] == (scripted_logprob(token, start + i) if mask else 0.0)
            for session in opened:
                report = await admin("POST", f"/sessions/{session['session']}/close", {"reason": "agent_end"})
                assert report["unanswered"] == 0, "an error of ours that no agent has met"
        process.kill()
        await engine.stop()

    asyncio.run(main())


def test_a_torn_journal_line_is_not_a_turn(tmp_path):
    from swerl.record.session_journal import inherit

    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"k":"open"}\n{"k":"turn","id"')
    assert inherit(path) == [{"k": "open"}]
    assert path.read_bytes() == b'{"k":"open"}\n'
