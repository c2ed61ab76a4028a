"""Trial settings are what Harbor's own models take. Harbor lives in the other environment; its interpreter is asked."""

from __future__ import annotations

import subprocess

import orjson
import pytest

from swerl.config.schema import PROJECT_ROOT
from swerl.errors import SwerlError
from swerl.facts.sandbox import backend
from swerl.render import trial_settings

AGENTS = {
    "claude-code": "harbor.agents.installed.claude_code:ClaudeCode",
    "codex": "harbor.agents.installed.codex:Codex",
    "opencode": "harbor.agents.installed.opencode:OpenCode",
    "openhands": "harbor.agents.installed.openhands:OpenHands",
    "openhands-sdk": "harbor.agents.installed.openhands_sdk:OpenHandsSDK",
    "mini-swe-agent": "harbor.agents.installed.mini_swe_agent:MiniSweAgent",
    "terminus-2": "harbor.agents.terminus_2.terminus_2:Terminus2",
}
BUBBLEWRAP = "swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment"
_ASK_HARBOR = """
import importlib, json, sys
from pathlib import Path
from harbor.models.trial.config import TrialConfig, TaskConfig
for settings in json.load(sys.stdin):
    config = TrialConfig(task=TaskConfig(path=Path("/t")), trial_name="t", trials_dir=Path("/x"), **settings)
    for part in (config.agent, config.environment):
        if part.import_path and part.import_path.startswith("harbor."):
            module, _, name = part.import_path.partition(":")
            try:
                options = getattr(getattr(importlib.import_module(module), name), "options_model", None)
            except ModuleNotFoundError as error:
                if error.name != "kubernetes":  # an extra of Harbor's, not needed by a run without a cluster
                    raise
                options = None
            if options is not None:
                options.model_validate(part.kwargs)
print("ok")
"""


@pytest.mark.slow
@pytest.mark.trials
def test_harbor_accepts_the_settings_of_every_agent_and_sandbox(config):
    mounts = {"harbor_agent.host_path_mounts": [{"host_path": "/a", "mount_path": "/b"}]}
    combinations = [
        {**mounts, "harbor_agent.agent_import_path": agent, "harbor_agent.environment_import_path": sandbox}
        for agent in AGENTS.values()
        for sandbox in ("harbor.environments.docker.docker:DockerEnvironment", "harbor.environments.ack:ACKEnvironment")
    ]
    named = [
        {"harbor_agent.agent_import_path": None, "harbor_agent.agent_name": name, "harbor_agent.environment_import_path": None,
         "harbor_agent.environment_type": "docker"}
        for name in AGENTS
    ]  # fmt: skip
    settings = [trial_settings(config(None, sets)) for sets in combinations + named] + [trial_settings(config("demo-cpu"))]
    done = subprocess.run(
        [PROJECT_ROOT / ".venv/trials/bin/python", "-c", _ASK_HARBOR], input=orjson.dumps(settings), capture_output=True, check=False
    )
    assert done.stdout.strip() == b"ok", done.stderr.decode()[-2000:]


def test_the_runtime_image_is_mounted_where_the_sandbox_can(config):
    (volume,) = trial_settings(config())["environment"]["mounts"]
    assert volume["type"] == "image" and volume["image"] == {"subpath": "opt/custom-agent-runtime/claude-code"}
    pod = trial_settings(config(None, {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment"}))
    spec = pod["environment"]["kwargs"]["pod_overrides"]["spec"]
    assert spec["volumes"][0]["image"]["reference"] == config().harbor_agent.runtime_image
    assert spec["activeDeadlineSeconds"] == 6000


def test_the_directory_of_runtimes_is_shown_read_only_and_nothing_is_installed(config, tmp_path):
    ours = {"harbor_agent.runtime_image": "", "harbor_agent.environment_import_path": BUBBLEWRAP, "harbor_agent.runtime_dir": str(tmp_path)}
    given = trial_settings(config(None, ours))
    (mount,) = given["environment"]["mounts"]
    assert mount == {"type": "bind", "source": str(tmp_path), "target": "/opt/custom-agent-runtime", "read_only": True}
    assert given["environment"]["env"]["PATH"].startswith("/opt/custom-agent-runtime/bin:") and given["agent"]["kwargs"]["skip_install"]
    openhands = {**ours, "harbor_agent.agent_import_path": None, "harbor_agent.agent_name": "openhands-sdk"}
    mounts = trial_settings(config(None, openhands))["environment"]["mounts"]
    assert [m["target"] for m in mounts] == ["/opt/custom-agent-runtime", "/opt/openhands-sdk-venv"]
    mini = {**ours, "harbor_agent.agent_import_path": "swerl.trials.agents.mini:MiniAgent"}
    assert "skip_install" not in trial_settings(config(None, mini))["agent"]["kwargs"]


def test_what_a_class_cannot_do_is_refused(config):
    for sets in (
        {"harbor_agent.disable_tool_calls": True},
        {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment", "harbor_agent.runtime_dir": "/x"},
        {"harbor_agent.max_consecutive_no_tool": 3},
        {"harbor_agent.environment_import_path": "swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment"},
        {"harbor_agent.environment_type": "docker"},
        {"harbor_agent.environment_import_path": None},
        {"harbor_agent.agent_import_path": None, "harbor_agent.agent_name": None},
    ):
        with pytest.raises(SwerlError) as error:
            trial_settings(config(None, sets))
        assert error.value.problems[0].id == "SWERL-C017"


def test_a_users_arguments_win_and_leave_the_rest(config):
    sets = {
        "harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment",
        "harbor_agent.environment_kwargs": {"registry": "r", "pod_overrides": {"spec": {"nodeName": "n"}}},
        "harbor_agent.agent_kwargs": {"max_turns": 7},
    }
    settings = trial_settings(config(None, sets))
    kwargs = settings["environment"]["kwargs"]
    assert kwargs["registry"] == "r" and kwargs["pod_overrides"]["spec"]["nodeName"] == "n"
    assert kwargs["pod_overrides"]["metadata"]["labels"] == {"harbor-run": "swe-lego-live-rl"}
    assert settings["agent"]["kwargs"] == {"max_turns": 7}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("harbor.environments.docker.docker:DockerEnvironment", "docker"),
        ("harbor.environments.ack:ACKEnvironment", "kubernetes"),
        ("swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment", "bubblewrap"),
        ("mine.kubernetes:KubernetesEnvironment", "kubernetes"),
        ("mine.sandbox:Sandbox", "other"),
        ("package.attack:Sandbox", "other"),
        ("harbor.environments.kernel_docker:KernelDockerEnvironment", "other"),
    ],
)
def test_backends(path, kind, config):
    sets = {"harbor_agent.environment_import_path": path}
    assert backend(config(None, sets).harbor_agent) == kind
