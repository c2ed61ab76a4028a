"""Several machines: the head's waiting and checking, with two nodes that are network namespaces of this one and real Ray in both."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from swerl.config import dump_resolved, examine
from swerl.config.schema import PROJECT_ROOT
from swerl.record.events import read_events
from swerl.record.rundir import RunDir, read_json, write_atomic
from swerl.runs import cluster
from swerl.runs.cleanup import token_of
from swerl.runs.launch import plan_for

PATIENCE_S = 240.0
HEAD, NODE = "10.231.7.1", "10.231.7.2"


def made(tmp_path: Path, **sets: object) -> tuple[RunDir, object]:
    """A prepared directory of a run on two CPU nodes."""
    chosen = {
        "experiment.runs_dir": str(tmp_path / "runs"),
        "model.model_path": str(tmp_path / "policy"),
        "infrastructure.nnodes": 2,
        "infrastructure.node0_ip": HEAD,
        "infrastructure.ray_port": 6379,
        "infrastructure.ray_num_cpus": 2,
        "infrastructure.object_store_mb": 100,
        **sets,
    }
    texts = {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in chosen.items()}
    found = examine(PROJECT_ROOT / "config.yaml", "demo-cpu", texts, {})
    assert found.config is not None, found.problems
    run = RunDir.at(found.config.run_dir)
    run.create()
    token_of(run)
    write_atomic(run.resolved, dump_resolved(found.config))
    return run, found.config


def test_a_run_on_several_machines_begins_with_the_cluster(tmp_path, monkeypatch):
    run, config = made(tmp_path)
    plan = plan_for(config, run)
    assert [service.name for service in plan.services] == ["cluster", "gateway", "runner"]
    assert plan.services[0].ready_timeout_s > config.infrastructure.join_timeout_sec
    for process in (plan.services[0], plan.trainer):
        assert process.env["RAY_AUTH_MODE"] == "token" and process.env["RAY_AUTH_TOKEN_PATH"] == str(run.root / "ray.token")
    assert (run.root / "ray.token").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start")
    assert [service.name for service in plan_for(config, run).services] == ["gateway", "runner"], "KubeRay makes the cluster"


def test_a_run_on_one_machine_has_none(tmp_path):
    run, config = made(tmp_path, **{"infrastructure.nnodes": 1})
    assert "RAY_AUTH_MODE" not in plan_for(config, run).trainer.env


def test_the_join_command_names_run_and_rank(tmp_path):
    run, config = made(tmp_path)
    words = shlex.split(cluster.join_command(run, config, 1))
    assert words[1:] == ["node", str(run.root), "--rank", "1"] and Path(words[0]).name == "swerl"


@pytest.fixture(autouse=True)
def _ray_leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """A supervisor would remove a run's scratch; here only its head runs."""
    yield
    for root in (tmp_path / "runs").glob("*/"):
        shutil.rmtree(RunDir.at(root).scratch, ignore_errors=True)


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Two namespaces with one cable between them, as two hosts; their processes are ended with them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make network namespaces")
    names = f"swerl-head-{os.getpid()}", f"swerl-node-{os.getpid()}"
    cables = f"swh{os.getpid() % 100000}", f"swn{os.getpid() % 100000}"
    if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode:
        pytest.skip("network namespaces cannot be made here")
    subprocess.run(["ip", "netns", "add", names[1]], check=True)
    try:
        subprocess.run(["ip", "link", "add", cables[0], "type", "veth", "peer", "name", cables[1]], check=True)
        for name, cable, address in zip(names, cables, (HEAD, NODE), strict=True):
            subprocess.run(["ip", "link", "set", cable, "netns", name], check=True)
            for words in (["addr", "add", f"{address}/24", "dev", cable], ["link", "set", cable, "up"], ["link", "set", "lo", "up"]):
                subprocess.run(["ip", "-n", name, *words], check=True)
        yield names
    finally:
        for name in names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name])


def within(namespace: str, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=out, stderr=subprocess.STDOUT, env=env)


def head(namespace: str, run: RunDir, log: Path) -> subprocess.Popen[bytes]:
    return within(namespace, [sys.executable, "-P", "-m", "swerl.runs.cluster", "--run-dir", str(run.root)], log)


def event_of(run: RunDir, kind: str, process: subprocess.Popen[bytes], log: Path) -> dict:
    """The first event of that kind; where none comes, all logs beside the head's say why."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = next((event for event in read_events(run.events_of("cluster")) if event["kind"] == kind), None)
        if found is not None:
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no {kind}: " + "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(log.parent.glob("*.log"))))


def health(namespace: str, run: RunDir) -> int:
    """What the supervisor would be answered; asked inside the head's namespace."""
    address = urlsplit(read_json(run.services)["cluster"]["url"])
    code = f"import http.client; c = http.client.HTTPConnection({address.hostname!r}, {address.port}); c.request('GET', '/');"
    asked = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", f"{code} print(c.getresponse().status)"], capture_output=True, text=True
    )
    return int(asked.stdout)


@pytest.mark.long
@pytest.mark.train
def test_two_nodes_join_are_checked_and_one_is_lost(tmp_path, network, site):
    """The head prints the command, waits, checks the node where it is, answers that the cluster is up, and says when the node is gone."""
    run, _ = made(tmp_path, **{"model.model_path": str(site.model)})
    log, node_log = tmp_path / "head.log", tmp_path / "node.log"
    one = head(network[0], run, log)
    try:
        waiting = event_of(run, "cluster.waiting", one, log)
        assert f"on node 1: {waiting['command']}" in log.read_text() and health(network[0], run) == 503
        other = within(network[1], shlex.split(waiting["command"]), node_log)
        assert event_of(run, "cluster.joined", one, log)["address"] == NODE
        assert event_of(run, "cluster.checked", one, log)["rank"] == 1
        event_of(run, "cluster.ready", one, log)
        assert health(network[0], run) == 200
        for pid in subprocess.run(["ip", "netns", "pids", network[1]], capture_output=True, text=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        other.wait()
        assert event_of(run, "cluster.lost", one, log)["rank"] == 1
    finally:
        one.terminate()
        one.wait(60)


@pytest.mark.long
@pytest.mark.train
def test_a_node_that_does_not_come_is_named_with_its_command(tmp_path, network):
    run, config = made(tmp_path, **{"infrastructure.join_timeout_sec": 3})
    log = tmp_path / "head.log"
    one = head(network[0], run, log)
    assert one.wait(PATIENCE_S) == 1
    text = log.read_text()
    assert "SWERL-R043" in text and "1 of 1 nodes have not joined within 3 s" in text
    assert f"on node 1: {cluster.join_command(run, config, 1)}" in text.rpartition("SWERL-R043")[2]


@pytest.mark.long
@pytest.mark.train
def test_a_node_that_is_not_fit_is_refused_where_it_is(tmp_path):
    """A policy that this node does not see: preflight says so there, and nothing is joined."""
    run, config = made(tmp_path)
    done = subprocess.run(shlex.split(cluster.join_command(run, config, 1)), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1 and "SWERL-P101" in done.stdout and "joins" not in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "swerl.cli", "node", str(run.root), "--rank", "7"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "SWERL-R046" in wrong.stderr
