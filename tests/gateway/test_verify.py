"""The verifier agrees with a faithful recording and finds one wrong token."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from gatewaykit import gateway_on

from swerl.cli import run
from swerl.config.schema import PROJECT_ROOT
from swerl.errors import SwerlError
from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply
from swerl.gateway.verify import load_recording, scorer, verify

TASK = [{"role": "user", "content": "f returns 2"}]


@pytest.fixture(scope="module")
def policy(model_dir):
    """The test policy with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=700, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16
    )
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(model_dir)

    return policy_of(model)


def policy_of(model):
    """Samples as an engine would: prompt, temperature and number of tokens to tokens and their log-probabilities."""
    import torch

    def sample(prompt: list[int], temperature: float, count: int) -> tuple[list[int], list[float]]:
        ids, logprobs = list(prompt), []
        for _ in range(count):
            with torch.no_grad():
                scores = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1] / temperature, -1)
            ids.append(int(torch.multinomial(scores[:600].exp(), 1)))
            logprobs.append(float(scores[ids[-1]]))
        return ids[len(prompt) :], logprobs

    return sample


def test_a_faithful_recording_agrees_and_a_wrong_one_does_not(tmp_path, model_dir, vllm_reader, policy, monkeypatch, capsys):
    drawn: dict[tuple, float] = {}

    def script(turn):
        ids, logprobs = policy(list(turn.prompt_ids), 0.8, 6)
        drawn.update({(token, len(turn.prompt_ids) + i): lp for i, (token, lp) in enumerate(zip(ids, logprobs, strict=True))})
        return ScriptReply(token_ids=ids, end=False)

    monkeypatch.setattr("swerl.gateway.engines.scripted.scripted_logprob", lambda token, position: drawn[token, position])

    async def record() -> dict:
        engine = ScriptedEngine(script, model_dir)
        await engine.start()
        async with gateway_on(tmp_path, model_dir, vllm_reader) as kit:
            await kit.admin("POST", "/engine", engine.registration())
            session, key = await kit.open(sampling={"temperature": 0.8})
            history = list(TASK)
            for _ in range(3):
                history += [(await kit.chat(key, history))["choices"][0]["message"], {"role": "user", "content": "more"}]
            recording = await kit.recording(session)
        await engine.stop()
        return recording

    recording = asyncio.run(record())
    (tmp_path / "recording.json").write_bytes(orjson.dumps(recording))
    (journal,) = (tmp_path / "gateway" / "sessions").iterdir()
    for file in (tmp_path / "recording.json", journal):
        loaded = load_recording(file)
        rows, temperature = loaded.rows, loaded.temperature
        verdict = verify(rows, scorer(model_dir), temperature=temperature)
        assert (verdict.paths, verdict.tokens) == (1, 18) and verdict.agrees(1e-4)
    assert not verify(rows, scorer(model_dir), temperature=temperature, raw=True).agrees()
    assert verify(rows, scorer(model_dir), temperature=temperature, version=7).tokens == 0
    assert run(["gateway", "verify", str(tmp_path / "gateway" / "sessions"), "--model", str(model_dir)]) == 0
    told = capsys.readouterr().out
    assert "1 recording, 1 path, 18 tokens" in told and "they agree" in told
    assert run(["gateway", "verify", str(journal), "--model", str(model_dir), "--raw", "--json"]) == 1
    assert orjson.loads(capsys.readouterr().out)["agrees"] is False
    (row,) = recording["paths"]
    at = row["response_mask"].index(1)
    row["response_ids"][at] = (row["response_ids"][at] + 1) % 600
    verdict = verify([row], scorer(model_dir), temperature=0.8)
    assert not verdict.agrees() and verdict.max_difference > 0.01


def test_a_runs_recordings_are_compared_with_the_weights_they_were_sampled_by(tmp_path, model_dir, vllm_reader, policy, capsys):
    """Two checkpoints of other weights: each session is held against its own, and a version that was not saved is counted."""
    import shutil

    import torch
    from transformers import Qwen3ForCausalLM

    from swerl.config import dump_resolved, load

    run_dir = tmp_path / "runs" / "r"
    later = run_dir / "checkpoints" / "global_step_3"
    other = Qwen3ForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    other.save_pretrained(later / "actor" / "huggingface")
    (later / "swerl.json").write_bytes(orjson.dumps({"step": 3, "version": "L1:3"}))
    config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", {"model.model_path": str(model_dir)}, env={})
    (run_dir / "resolved.json").write_bytes(dump_resolved(config))
    sampled = {"init:0": policy, "L1:3": policy_of(other), "L1:2": policy}
    drawn: dict[tuple, float] = {}

    async def record() -> None:
        for epoch, (version, sample) in enumerate(sampled.items(), 1):

            def script(turn, sample=sample):
                ids, logprobs = sample(list(turn.prompt_ids), 1.0, 6)
                drawn.update({(token, len(turn.prompt_ids) + i): lp for i, (token, lp) in enumerate(zip(ids, logprobs, strict=True))})
                return ScriptReply(token_ids=ids, end=False)

            engine = ScriptedEngine(script, model_dir, epoch=epoch, version=int(version[-1]))
            await engine.start()
            async with gateway_on(run_dir, model_dir, vllm_reader) as kit:
                await kit.admin("POST", "/engine", engine.registration())
                _, key = await kit.open(trial={"version": version}, sampling={"temperature": 1.0})
                await kit.chat(key, TASK)
            await engine.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swerl.gateway.engines.scripted.scripted_logprob", lambda token, position: drawn[token, position])
        asyncio.run(record())
    sessions = run_dir / "gateway" / "sessions"
    assert run(["gateway", "verify", str(sessions)]) == 0
    told = capsys.readouterr().out
    assert "2 recordings, 2 paths, 12 tokens compared" in told and "1 recording not compared; no weights on disk of L1:2" in told
    assert "they agree" in told and f"L1:3: {later / 'actor' / 'huggingface'}" in told
    assert run(["gateway", "verify", str(sessions), "--model", str(model_dir)]) == 1
    assert "they do not agree" in capsys.readouterr().out
    shutil.rmtree(later)
    (file,) = [f for f in sessions.iterdir() if b'"L1:3"' in f.read_bytes()]
    assert run(["gateway", "verify", str(file)]) == 1
    assert "nothing to compare: name the weights with --model" in capsys.readouterr().out
    shutil.copy(file, tmp_path / "alone.jsonl")
    assert run(["gateway", "verify", str(tmp_path / "alone.jsonl")]) == 1
    assert "SWERL-G012" in capsys.readouterr().err


def test_what_is_no_recording_is_said(tmp_path):
    for name, data in (("a.json", b"{}"), ("b.json", b"{"), ("c.jsonl", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SwerlError) as caught:
            load_recording(tmp_path / name)
        assert caught.value.problems[0].id == "SWERL-G010"
