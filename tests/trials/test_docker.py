"""What swerl adds to Harbor's Docker environment, against a docker client that only writes down what it was asked. No engine runs here."""

import json
import os
import shlex
import subprocess
from dataclasses import replace

import pytest
from trialkit import make_task, request_for, settings_for

from swerl.runs.events import EventLog
from swerl.runs.services import announce
from swerl.trials.attempt import AttemptRunner
from swerl.trials.clock import GatewayWatch
from swerl.trials.gateway import GatewayAdmin, Session
from swerl.trials.sandboxes import docker
from swerl.trials.sandboxes.leftovers import END_OTHERS


def test_which_environments_are_docker():
    assert docker.is_docker({"type": "docker"}) and docker.is_docker({"import_path": "harbor.environments.docker.docker:DockerEnvironment"})
    assert not docker.is_docker({"import_path": "swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment"})


def test_where_a_container_finds_the_gateway():
    assert docker.inside_url("http://127.0.0.1:8002") == "http://host.docker.internal:8002"
    assert docker.inside_url("http://10.0.0.7:8002") == "http://10.0.0.7:8002"


def test_a_trials_configuration(tmp_path):
    (tmp_path / "run").mkdir()
    settings = settings_for(tmp_path / "run")
    harbor = {**settings.harbor, "environment": {"type": "docker"}, "agent": {"name": "claude-code", "model_name": "m", "kwargs": {}}}
    settings = replace(settings, harbor=harbor)
    announce(settings.services_path, "gateway", {"public_url": "http://127.0.0.1:8002", "admin_url": "", "admin_token": ""})
    gateway = GatewayAdmin(settings.services_path)
    attempts = AttemptRunner(settings, gateway, GatewayWatch(gateway.public_url), EventLog(settings.events_path, "runner"))
    config = attempts._config(request_for(make_task(tmp_path)), "name", Session("id", "k" * 64))
    (path,) = config.environment.extra_docker_compose
    laid = json.loads(path.read_text())
    assert laid["services"]["main"]["init"] and laid["services"]["main"]["stop_grace_period"] == "1s"
    assert laid["services"]["main"]["labels"] == laid["networks"]["default"]["labels"] == {docker.LABEL: settings.run_tag}
    assert config.agent.base_url == "http://host.docker.internal:8002" and config.verifier.import_path is None


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A docker command that answers from files and writes down its arguments."""
    (tmp_path / "docker").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'case "$*" in ps*) cat {tmp_path}/containers;; "network ls"*) cat {tmp_path}/networks;; esac\n'
    )
    (tmp_path / "docker").chmod(0o755)
    for name in ("containers", "networks", "asked"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_only_what_carries_the_label_is_removed(client):
    (client / "containers").write_text("c1\nc2\n")
    (client / "networks").write_text("n1\n")
    assert docker.reap("tag") == 3
    assert (client / "asked").read_text().splitlines() == [
        "ps --all --quiet --filter label=swerl.run=tag",
        "rm --force --volumes c1 c2",
        "network ls --quiet --filter label=swerl.run=tag",
        "network rm n1",
    ]


def test_nothing_to_remove_and_no_engine(client):
    assert docker.reap("tag") == 0
    assert not any(line.startswith(("rm", "network rm")) for line in (client / "asked").read_text().splitlines())
    (client / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    with pytest.raises(RuntimeError, match="docker ps: Cannot connect"):
        docker.reap("tag")


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace of its own needs root here")
@pytest.mark.parametrize("main", ["sleep 1001 &", "sh -c 'sleep 1001; true' &"])
def test_the_agents_processes_end_and_the_containers_main_command_stays(main):
    body = f"{main} sleep 3; setsid sleep 1002 & (sleep 1003 &); sleep 0.3; sh -c {shlex.quote(END_OTHERS)}; pgrep -a sleep"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", body]
    left = subprocess.run(command, capture_output=True, text=True).stdout
    assert "sleep 1001" in left and "sleep 1002" not in left and "sleep 1003" not in left
