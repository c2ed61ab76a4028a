"""OpenAI chat completions and what stands around it: shapes, limits, refusals, and doors that must stay shut."""

from __future__ import annotations

import asyncio
import os
import stat

import orjson
import pytest
from gatewaykit import TOOLS, call_text, gateway_on, running

from swerl.gateway.engines.scripted import ScriptReply, ScriptTurn
from swerl.gateway.history import Histories

TASK = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "f returns 2"}]


def run(tmp_path, model_dir, reader, script, body, **options):
    async def main():
        async with running(tmp_path, model_dir, reader, script, **options) as kit:
            return await body(kit)

    return asyncio.run(main())


def hi(turn: ScriptTurn) -> str:
    return "hi"


def test_any_model_name_and_every_way_to_give_the_key(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        _, key = await kit.open()
        for name in ("claude-sonnet-4", "hosted_vllm/policy", "policy", "", "gpt-5.4-nano"):
            assert (await kit.chat(key, TASK, model=name))["model"] == name
        url = kit.gateway.public_url
        for path, headers in (
            ("/v1/chat/completions", {"Authorization": f"Bearer {key}"}),
            ("/v1/chat/completions", {"x-api-key": key}),
            (f"/t/{key}/chat/completions", {}),
        ):
            async with kit.client.post(url + path, json={"model": "m", "messages": TASK}, headers=headers) as response:
                assert response.status == 200

    run(tmp_path, model_dir, vllm_reader, hi, body)


def test_usage_and_logprobs_only_when_asked(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        plain = await kit.chat(key, TASK)
        assert plain["choices"][0]["logprobs"] is None and "token_ids" not in plain["choices"][0] and "prompt_token_ids" not in plain
        asked = await kit.chat(key, TASK, logprobs=True, return_token_ids=True)
        path = (await kit.recording(session))["paths"][-1]
        assert asked["prompt_token_ids"] == path["prompt_ids"]
        assert asked["choices"][0]["token_ids"] == path["response_ids"]
        assert [t["logprob"] for t in asked["choices"][0]["logprobs"]["content"]] == path["response_logprobs"]
        assert asked["usage"] == {
            "prompt_tokens": len(path["prompt_ids"]),
            "completion_tokens": len(path["response_ids"]),
            "total_tokens": len(path["prompt_ids"]) + len(path["response_ids"]),
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    run(tmp_path, model_dir, vllm_reader, hi, body)


def test_the_runs_sampling_wins_unless_told_otherwise(tmp_path, model_dir, vllm_reader):
    async def asked(kit):
        _, key = await kit.open(sampling={"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 50})
        await kit.chat(key, TASK, temperature=0.1, top_p=0.2, max_tokens=20)
        sampling = kit.engine.requests[-1]["sampling"]
        return [sampling[k] for k in ("temperature", "top_p", "top_k", "max_tokens")]

    assert run(tmp_path / "run", model_dir, vllm_reader, hi, asked) == [0.7, 0.9, 5, 20]
    assert run(tmp_path / "client", model_dir, vllm_reader, hi, asked, sampling="client") == [0.1, 0.2, 5, 20]


def test_stop_sequences_end_the_answer_and_not_the_record(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        answer = await kit.chat(key, TASK, stop=["END", "never"])
        assert answer["choices"][0]["message"]["content"] == "before "
        assert kit.engine.requests[0]["sampling"]["stop"] == ["END", "never"]
        (path,) = (await kit.recording(session))["paths"]
        assert kit.gateway.template.tokenizer.decode(path["response_ids"], skip_special=False) == "before END"

    run(tmp_path, model_dir, vllm_reader, lambda t: ScriptReply(text="before END", end=False), body)


def test_answers_are_clamped_to_the_window_and_overflow_is_said_in_openais_words(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        first = await kit.chat(key, TASK, max_tokens=32000)
        room = 300 - first["usage"]["prompt_tokens"]
        assert kit.engine.requests[0]["sampling"]["max_tokens"] == room
        assert first["choices"][0]["finish_reason"] == "length" and first["usage"]["total_tokens"] == 300
        history = [*TASK, first["choices"][0]["message"], {"role": "user", "content": "go on"}]
        refused = await kit.chat(key, history, status=400)
        assert (
            refused["error"]["code"] == "context_length_exceeded" and "maximum context length is 300 tokens" in refused["error"]["message"]
        )
        recording = await kit.recording(session)
        assert recording["overflow"] and recording["turns"] == 1 and recording["paths"][0]["overlong"]

    run(tmp_path, model_dir, vllm_reader, lambda t: "word " * 400, body, window_tokens=300)


def test_prompt_and_response_budgets_of_training_bound_a_session(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        first = await kit.chat(key, TASK)
        assert first["usage"]["completion_tokens"] == 40
        (path,) = (await kit.recording(session))["paths"]
        assert path["overlong"] and len(path["response_ids"]) == 40
        await kit.chat(key, [*TASK, first["choices"][0]["message"], {"role": "user", "content": "x"}], status=400)
        _, other = await kit.open()
        long_task = [{"role": "user", "content": "word " * 400}]
        assert (await kit.chat(other, long_task, status=400))["error"]["code"] == "context_length_exceeded"

    run(tmp_path, model_dir, vllm_reader, lambda t: "word " * 400, body, response_tokens=40, prompt_tokens=300)


def test_the_turn_limit_of_a_session(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open(max_turns=2)
        for _ in range(2):
            await kit.chat(key, TASK)
        assert (await kit.chat(key, TASK, status=400))["error"]["code"] == "max_turns_exceeded"
        recording = await kit.recording(session)
        assert recording["turns"] == 2 and recording["max_turns"]

    run(tmp_path, model_dir, vllm_reader, hi, body)


BAD_BODIES = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
    ({"messages": TASK, "n": 2}, "n"),
    ({"messages": TASK, "max_tokens": 0}, "max_tokens"),
    ({"messages": TASK, "temperature": "hot"}, "temperature"),
    ({"messages": TASK, "tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"messages": TASK, "tool_choice": "required"}, "tool_choice"),
    ({"messages": TASK, "stop": [1]}, "stop"),
    ({"messages": TASK, "response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
def test_bad_requests_name_the_field(body, param):
    from swerl.gateway.dialects.openai_chat import OpenAIChat
    from swerl.gateway.errors import ApiError

    with pytest.raises(ApiError) as caught:
        OpenAIChat().parse(body, {}, 0, Histories())
    assert caught.value.status == 400 and caught.value.param == param
    assert set(OpenAIChat().error(caught.value)["error"]) == {"message", "type", "param", "code"}


def test_what_clients_ask_around_the_api(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        _, key = await kit.open()
        url = kit.gateway.public_url
        for method, path, status in (
            ("GET", "/health/liveliness", 200),
            ("HEAD", "/", 200),
            ("HEAD", f"/t/{key}", 200),
            ("GET", f"/t/{key}/v1/models", 200),
            ("GET", "/v1/models", 200),
            ("GET", "/v1/models/hosted_vllm/policy", 200),
            ("GET", "/nothing", 404),
            ("GET", "/v1/chat/completions", 405),
        ):
            async with kit.client.request(method, url + path) as response:
                assert response.status == status, path
                assert method == "HEAD" or response.content_type == "application/json"
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        async with kit.client.get(f"{url}/t/{key}/v1/responses", headers=upgrade) as response:
            assert response.status == 426
        async with kit.client.post(f"{url}/t/{key}/v1/chat/completions", data=b"{nonsense") as response:
            assert response.status == 400 and (await response.json())["error"]["code"] == "invalid_json"

    run(tmp_path, model_dir, vllm_reader, hi, body)


def test_the_body_limit_holds(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        _, key = await kit.open()
        refused = await kit.chat(key, [{"role": "user", "content": "x" * (1 << 20)}], status=413)
        assert refused["error"]["code"] == "request_too_large"
        await kit.chat(key, [{"role": "user", "content": "x" * 1000}])

    run(tmp_path, model_dir, vllm_reader, hi, body, max_body_mb=1)


def test_doors_stay_shut(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        await kit.chat(key, TASK)
        public, admin = kit.gateway.public_url, kit.gateway.admin_url
        # a session's id is not its key, and the admin token opens no session
        for wrong in (session, "x", "../" + session, key[:-1], kit.gateway.admin_token):
            async with kit.client.post(f"{public}/v1/chat/completions", json={"messages": TASK}, headers={"x-api-key": wrong}) as response:
                assert response.status == 401
        async with kit.client.post(f"{public}/v1/chat/completions", json={"messages": TASK}) as response:
            assert response.status == 401
        # the admin surface: other port, own token, no session key opens it, no path leaves the journal's directory
        for headers in ({}, {"Authorization": f"Bearer {key}"}, {"Authorization": "Bearer "}, {"Authorization": "Bearer é"}):
            async with kit.client.get(f"{admin}/stats", headers=headers) as response:
                assert response.status == 401
        async with kit.client.post(
            f"{public}/sessions", json={}, headers={"Authorization": f"Bearer {kit.gateway.admin_token}"}
        ) as response:
            assert response.status == 404
        for path in ("..%2f..%2fengine", "%2e%2e", session.upper(), session[:-1] + "/", "x" * 32):
            async with kit.client.get(
                f"{admin}/sessions/{path}/recording", headers={"Authorization": f"Bearer {kit.gateway.admin_token}"}
            ) as response:
                assert response.status == 404, path
        # the key is nowhere on disk, and nobody else reads the journal
        for directory, _, files in os.walk(tmp_path):
            for name in files:
                file = os.path.join(directory, name)  # noqa: PTH118
                with open(file, "rb") as handle:  # noqa: PTH123
                    assert key.encode() not in handle.read(), file
        (journal,) = (tmp_path / "gateway" / "sessions").iterdir()
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "gateway" / "engine.json").stat().st_mode) == 0o600

    run(tmp_path, model_dir, vllm_reader, hi, body)


def test_sessions_are_limited_and_admin_input_is_checked(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        opened = [await kit.open() for _ in range(2)]
        await kit.admin("POST", "/sessions", {}, status=429)
        await kit.admin("POST", f"/sessions/{opened[0][0]}/close", {})
        await kit.open()
        for path, wrong in (
            ("/sessions", {"seed": "x"}),
            ("/engine", {"url": 3, "epoch": 1}),
            ("/pause", {}),
            ("/resume", {"epoch": True}),
        ):
            await kit.admin("POST", path, wrong, status=400)
        await kit.admin("GET", f"/sessions/{opened[1][0]}/recording?paths=some", status=400)
        await kit.admin("GET", f"/sessions/{'0' * 32}/recording", status=404)

    run(tmp_path, model_dir, vllm_reader, hi, body, max_sessions=2)


def test_services_json_is_private_and_names_this_process(tmp_path, model_dir, vllm_reader):
    async def main():
        services = tmp_path / "services.json"
        async with gateway_on(tmp_path, model_dir, vllm_reader, services_path=services) as kit:
            entry = orjson.loads(services.read_bytes())["gateway"]
            assert stat.S_IMODE(services.stat().st_mode) == 0o600
            assert entry == {
                "public_url": kit.gateway.public_url,
                "admin_url": kit.gateway.admin_url,
                "admin_token": kit.gateway.admin_token,
                "pid": os.getpid(),
            }

    asyncio.run(main())


def test_a_taken_port_is_named(tmp_path, model_dir, vllm_reader):
    from swerl.errors import SwerlError

    async def main():
        async with gateway_on(tmp_path / "a", model_dir, vllm_reader) as kit:
            port = int(kit.gateway.public_url.rpartition(":")[2])
            with pytest.raises(SwerlError) as caught:
                async with gateway_on(tmp_path / "b", model_dir, vllm_reader, port=port):
                    pass
            assert caught.value.problems[0].id == "SWERL-G008" and str(port) in str(caught.value)

    asyncio.run(main())


def test_side_calls_are_answered_and_kept_apart(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        await kit.chat(key, [{"role": "system", "content": "Make a title."}, *TASK[1:]], tools=None)  # before any turn with tools
        await kit.chat(key, [{"role": "user", "content": "quota"}], tools=None, max_tokens=1)
        message = (await kit.chat(key, TASK))["choices"][0]["message"]
        recording = await kit.recording(session)
        assert recording["side_calls"] == 2 and recording["turns"] == 1
        (path,) = recording["paths"]
        assert path["main"] and path["prompt_ids"] == kit.engine.requests[2]["prompt_ids"]
        assert message["tool_calls"]

    run(tmp_path, model_dir, vllm_reader, lambda t: call_text("ls") if "Tools:" in t.text else "A title", body)


def test_a_full_disk_loses_no_earlier_turn(tmp_path, model_dir, vllm_reader, monkeypatch):
    async def body(kit):
        session, key = await kit.open()
        first = (await kit.chat(key, TASK))["choices"][0]["message"]
        history = [*TASK, first, {"role": "user", "content": "go on"}]
        real, torn = os.write, []

        def full(fd: int, data: bytes) -> int:
            """As a kernel does: what fits is written and counted, and the next call fails."""
            if torn:
                raise OSError(28, "No space left on device")
            if bytes(data[:20]).startswith(b'{"k":"ctx"'):
                torn.append(fd)
                return real(fd, data[:10])
            return real(fd, data)

        monkeypatch.setattr("swerl.record.session_journal.os.write", full)
        refused = await kit.chat(key, history, status=503)
        assert refused["error"]["code"] == "journal_unwritable"
        monkeypatch.undo()
        await kit.chat(key, history)
        recorded = await kit.recording(session)
        assert recorded["turns"] == 2
        await kit.gateway.stop()
        async with gateway_on(tmp_path, model_dir, vllm_reader) as other:
            assert (await other.recording(session))["paths"] == recorded["paths"]
        kit.gateway.stop = _nothing

    run(tmp_path, model_dir, vllm_reader, hi, body)


async def _nothing() -> None: ...


def test_metrics_are_prometheus_text(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        session, key = await kit.open()
        await kit.chat(key, TASK)
        await kit.chat("wrong", TASK, status=401)
        headers = {"Authorization": f"Bearer {kit.gateway.admin_token}"}
        async with kit.client.get(f"{kit.gateway.admin_url}/metrics", headers=headers) as response:
            text = await response.text()
        assert "swerl_gateway_turns_total 1\n" in text and "swerl_gateway_sessions 1\n" in text
        assert 'swerl_gateway_refusals_total{status="401",code="invalid_api_key"} 1\n' in text
        assert 'swerl_gateway_answer_seconds_bucket{le="+Inf"} 1\n' in text
        assert (await kit.admin("GET", "/stats"))["turns"] == 1
        assert "swerl_gateway_session_" not in text
        async with kit.client.get(f"{kit.gateway.admin_url}/metrics?sessions=1", headers=headers) as response:
            text = await response.text()
        assert f'swerl_gateway_session_turns{{session="{session}"}} 1\n' in text and key not in text

    run(tmp_path, model_dir, vllm_reader, hi, body)


def test_tools_reach_the_prompt_once(tmp_path, model_dir, vllm_reader):
    async def body(kit):
        _, key = await kit.open()
        message = (await kit.chat(key, TASK))["choices"][0]["message"]
        await kit.chat(key, [*TASK, message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "r"}])
        text = kit.gateway.template.tokenizer.decode(kit.engine.requests[1]["prompt_ids"], skip_special=False)
        assert text.count(TOOLS[0]["function"]["description"]) == 1

    run(tmp_path, model_dir, vllm_reader, lambda t: call_text("ls"), body)
