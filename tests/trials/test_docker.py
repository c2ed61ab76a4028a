"""What swerl adds to Harbor's Docker environment, as far as it can be seen without an engine (test_docker_engine has one)."""

import json
import os
import shlex
import subprocess
from dataclasses import replace

import pytest
from trialkit import make_task, request_for, settings_for

from swerl.errors import SwerlError
from swerl.record.events import EventLog
from swerl.record.services import announce
from swerl.trials.attempt import AttemptRunner
from swerl.trials.backends import Docker
from swerl.trials.clock import GatewayWatch
from swerl.trials.gateway import GatewayAdmin, Session
from swerl.trials.sandboxes import engine
from swerl.trials.sandboxes.leftovers import END_OTHERS, SNAPSHOT
from swerl.trials.settings import GRADING


def test_which_environments_are_docker():
    assert Docker.runs({"type": "docker"}) and Docker.runs({"import_path": "harbor.environments.docker.docker:DockerEnvironment"})
    assert not Docker.runs({"import_path": "swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment"})


def test_where_a_container_finds_the_gateway():
    assert engine.inside_url("http://127.0.0.1:8002") == "http://host.docker.internal:8002"
    assert engine.inside_url("http://10.0.0.7:8002") == "http://10.0.0.7:8002"


def configured(tmp_path, network):
    (tmp_path / "run").mkdir(exist_ok=True)
    settings = settings_for(tmp_path / "run")
    harbor = {**settings.harbor, "environment": {"type": "docker"}, "agent": {"name": "claude-code", "model_name": "m", "kwargs": {}}}
    settings = replace(settings, harbor=harbor, sandbox={**settings.sandbox, "network": network})
    announce(settings.services_path, "gateway", {"public_url": "http://127.0.0.1:8002", "admin_url": "", "admin_token": ""})
    gateway = GatewayAdmin(settings.services_path)
    attempts = AttemptRunner(settings, gateway, GatewayWatch(gateway.public_url), EventLog(settings.events_path, "runner"))
    return attempts._config(request_for(make_task(tmp_path, name=f"task-{network}")), "name", Session("id", "k" * 64))


def test_a_trials_configuration(tmp_path):
    config = configured(tmp_path, "gateway")
    assert config.environment.type is None and config.environment.import_path == "swerl.trials.sandboxes.docker:DockerEnvironment"
    kwargs = config.environment.kwargs
    assert kwargs["network"] == "gateway" and kwargs["gateway"] == "127.0.0.1:8002" and kwargs["changes_only"]
    assert config.agent.base_url == "http://127.0.0.1:8002" and config.verifier.import_path == GRADING
    assert configured(tmp_path, "public").agent.base_url == "http://host.docker.internal:8002"
    with pytest.raises(SwerlError, match="SWERL-T031"):
        configured(tmp_path, "none")


def test_what_is_laid_over_a_project(tmp_path):
    theirs = tmp_path / "docker-compose.yaml"
    theirs.write_text("services:\n  main: {}\n  db: {image: x}\nvolumes:\n  data: {}\n  shared: {external: true}\n")
    laid = json.loads(engine.overlay(tmp_path / "o.json", "tag", "none", 99, [theirs]).read_text())
    main, labels = laid["services"]["main"], {engine.LABEL: "tag"}
    assert main["init"] and main["stop_signal"] == "SIGKILL" and main["pids_limit"] == 99 and main["network_mode"] == "none"
    assert main["labels"] == laid["services"]["db"]["labels"] == laid["volumes"]["data"]["labels"] == labels
    assert "shared" not in laid["volumes"] and "networks" not in laid
    public = json.loads(engine.overlay(tmp_path / "p.json", "tag", "public", 99).read_text())
    assert public["services"]["main"]["extra_hosts"] and public["networks"]["default"]["labels"] == labels


def test_no_secret_on_a_command_line_and_the_client_keeps_its_own():
    arguments, client = engine.variables({"ANTHROPIC_API_KEY": "k", "PATH": "/bin", "DOCKER_HOST": "x"})
    assert arguments == ["--env", "ANTHROPIC_API_KEY", "--env", "PATH=/bin", "--env", "DOCKER_HOST=x"]
    assert client == {"ANTHROPIC_API_KEY": "k"}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A docker command that answers from files and writes down its arguments."""
    (tmp_path / "docker").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'case "$*" in ps*) cat {tmp_path}/containers; : > {tmp_path}/containers;;'
        f' "network ls"*) cat {tmp_path}/networks; : > {tmp_path}/networks;; esac\n'
    )
    (tmp_path / "docker").chmod(0o755)
    for name in ("containers", "networks", "asked"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_only_what_carries_the_label_is_removed(client):
    (client / "containers").write_text("c1\nc2\n")
    (client / "networks").write_text("n1\n")
    assert engine.reap("tag") == 3
    assert (client / "asked").read_text().splitlines()[:5] == [
        "ps --all --quiet --filter label=swerl.run=tag",
        "rm --force --volumes c1 c2",
        "network ls --quiet --filter label=swerl.run=tag",
        "network rm n1",
        "volume ls --quiet --filter label=swerl.run=tag",
    ]


def test_nothing_to_remove_and_no_engine(client):
    assert engine.reap("tag") == 0
    assert not any(line.startswith(("rm", "network rm")) for line in (client / "asked").read_text().splitlines())
    (client / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    with pytest.raises(RuntimeError, match="docker ps: Cannot connect"):
        engine.reap("tag")


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace of its own needs root here")
@pytest.mark.parametrize("main", ["sleep 1001 &", "sh -c 'sleep 1001; true' &"])
def test_the_agents_processes_end_and_the_containers_main_command_stays(main):
    take, end = shlex.quote(SNAPSHOT), shlex.quote(END_OTHERS)
    agent = "setsid sleep 1002 & (sleep 1003 &); grep() { :; }; sleep 0.3"
    body = f'{main} sleep 0.3; kept=$(sh -c {take} | tr "\\n" " "); {agent}; sh -c {end} "$kept"; echo --; pgrep -a sleep'
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", body]
    ended, _, left = subprocess.run(command, capture_output=True, text=True).stdout.partition("--")
    assert "sleep1002" in ended and "sleep1003" in ended and "sleep1001" not in ended
    assert "sleep 1001" in left and "sleep 1002" not in left and "sleep 1003" not in left
