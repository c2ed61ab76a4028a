"""Pointing Harbor's agents at the gateway."""

import pytest

from swerl.errors import SwerlError
from swerl.trials.agentcfg import FAR_S, agent_config, agent_limit_s, is_utility

KEY = "0" * 64
MINI = {
    "import_path": "swerl.trials.agents.mini:MiniAgent",
    "model_name": "hosted_vllm/policy",
    "kwargs": {"max_turns": 3, "temperature": 1.0},
}


def test_our_agent_runs_in_the_runners_process():
    config = agent_config(MINI, public_url="http://h:1", inside_url=None, key=KEY)
    assert config.base_url == "http://h:1/v1" and config.model_name == "policy" and config.skip_model_parsing
    assert config.override_timeout_sec == FAR_S and config.kwargs["max_turns"] == 3
    assert KEY not in config.model_dump_json()


@pytest.mark.parametrize(
    ("name", "url", "model", "variable"),
    [
        ("claude-code", "http://in:2", "anthropic/policy", "ANTHROPIC_API_KEY"),
        ("mini-swe-agent", "http://in:2/v1", "openai/policy", "OPENAI_API_KEY"),
    ],
)
def test_agents_inside_the_sandbox(name, url, model, variable):
    config = agent_config(
        {"name": name, "model_name": "hosted_vllm/policy", "kwargs": {}}, public_url="http://h:1", inside_url="http://in:2", key=KEY
    )
    assert (config.base_url, config.model_name, config.env[variable]) == (url, model, KEY)
    assert KEY not in config.model_dump_json()


def test_an_agent_inside_needs_a_way_out():
    with pytest.raises(SwerlError, match="SWERL-T031"):
        agent_config({"name": "claude-code", "kwargs": {}}, public_url="http://h:1", inside_url=None, key=KEY)


def test_unknown_agents_are_refused():
    with pytest.raises(SwerlError, match="SWERL-T030"):
        agent_config({"name": "nobody"}, public_url="http://h:1", inside_url=None, key=KEY)


def test_utility_agents_need_no_session():
    assert is_utility({"name": "oracle"}) and is_utility({"name": "nop"}) and not is_utility(MINI)
    assert agent_config({"name": "nop"}, public_url=None, inside_url=None, key=None).name == "nop"


def test_whose_limit():
    assert agent_limit_s({"override_timeout_sec": 100, "max_timeout_sec": None}, 60, None) == 100
    assert agent_limit_s({"override_timeout_sec": None, "max_timeout_sec": 50}, 60, 2.0) == 100
    assert agent_limit_s({}, None, 1.0) is None
