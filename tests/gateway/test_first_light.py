"""The whole way once: an agent with a bash tool, plain and streamed, and the recording of what it did."""

from __future__ import annotations

import asyncio

from gatewaykit import TOOLS, call_text, running

from swerl.gateway.engines.scripted import ScriptTurn, scripted_logprob


def says(turn: ScriptTurn) -> str:
    return [call_text("cat -n a.py"), "thinking " + call_text("sed -i 's/a/b/' a.py"), "done"][min(turn.turn, 2)]


def test_an_agent_is_served_and_recorded(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says) as kit:
            session, key = await kit.open(sampling={"temperature": 1.0})
            messages = [{"role": "system", "content": "Fix the bug."}, {"role": "user", "content": "f(1) in a.py returns 2"}]
            first = await kit.chat(key, messages)
            choice = first["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            call = choice["message"]["tool_calls"][0]
            assert call["function"]["name"] == "bash" and call["function"]["arguments"] == '{"command": "cat -n a.py"}'
            messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "     1\tdef f(x):"}]
            chunks = await kit.chat(key, messages, stream=True, stream_options={"include_usage": True})
            deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
            assert "".join(d.get("content") or "" for d in deltas) == "thinking "
            pieces = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
            assert "".join(p["function"]["arguments"] for p in pieces) == '{"command": "sed -i \'s/a/b/\' a.py"}'
            assert chunks[-1]["usage"]["completion_tokens"] > 0
            messages += [
                {
                    "role": "assistant",
                    "content": "thinking ",
                    "tool_calls": [{**pieces[0], "function": {"name": "bash", "arguments": '{"command":"x"}'}}],
                },
                {"role": "tool", "tool_call_id": pieces[0]["id"], "content": ""},
            ]
            last = await kit.chat(key, messages)
            assert last["choices"][0]["message"]["content"] == "done" and last["choices"][0]["finish_reason"] == "stop"

            recording = await kit.recording(session)
            assert recording["turns"] == 3 and len(recording["paths"]) == 1
            path = recording["paths"][0]
            whole = path["prompt_ids"] + path["response_ids"]
            assert path["prompt_ids"] == kit.engine.requests[0]["prompt_ids"]
            prefix = kit.engine.requests[2]["prompt_ids"]
            assert whole[: len(prefix)] == prefix
            assert sum(path["response_mask"]) == recording["sampled_tokens"]
            start = len(path["prompt_ids"])
            for i, (token, mask, logprob, version) in enumerate(
                zip(path["response_ids"], path["response_mask"], path["response_logprobs"], path["versions"], strict=True)
            ):
                assert (logprob, version) == ((scripted_logprob(token, start + i), 0) if mask else (0.0, -1))
            text = kit.gateway.template.tokenizer.decode(whole, skip_special=False)
            assert "cat -n a.py" in text and "sed -i 's/a/b/'" in text and '"command":"x"' not in text
            closed = await kit.admin("POST", f"/sessions/{session}/close", {"reason": "agent_end"})
            usage, silent_s = closed.pop("usage"), closed.pop("silent_s")
            assert closed == {"turns": 3, "hold_s": 0.0, "aborted": 0, "overflow": False, "max_turns": False, "unanswered": 0}
            assert 0 <= silent_s < 30
            assert usage["sampled_tokens"] == recording["sampled_tokens"] and usage["prompt_tokens"] > 0 and usage["model_s"] >= 0
            await kit.chat(key, messages, status=401)

    asyncio.run(main())


def test_the_first_prompt_is_what_transformers_renders(model_dir, vllm_reader):
    from transformers import AutoTokenizer

    from swerl.gateway.chat import Message
    from swerl.gateway.template import ChatTemplate

    messages = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "Häuser  \n\n und 🦊 <tool_call>"}]
    theirs = AutoTokenizer.from_pretrained(model_dir).apply_chat_template(
        messages, tools=TOOLS, add_generation_prompt=True, return_dict=False
    )
    assert ChatTemplate(model_dir).prompt([Message(m["role"], m["content"]) for m in messages], TOOLS) == theirs


def test_a_gateway_bound_everywhere_tells_agents_an_address(tmp_path, model_dir, vllm_reader):
    async def announced(name: str, **options) -> str:
        async with running(tmp_path / name, model_dir, vllm_reader, says, host="0.0.0.0", **options) as kit:
            return kit.gateway.public_url

    assert "//10.1.2.3:" in asyncio.run(announced("named", advertised_host="10.1.2.3"))
    assert "//0.0.0.0:" not in asyncio.run(announced("unnamed"))
