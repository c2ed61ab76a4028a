"""`swerl clean` and `python -m swerl.trials.reap`: the containers and pods of a dead run go, by the run's id, and nothing else's does.

What is left is real: a runner killed with SIGKILL while its trials run.
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from dockerkit import IMAGE, Engine, Missing
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from test_kubernetes import cluster
from trialkit import FakeGateway, ask, make_task, request_for, runner_process, settings_for

from swerl.config import load
from swerl.config.schema import PROJECT_ROOT
from swerl.record.lock import hold
from swerl.record.process import look, this_process
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.render.trial import trial_settings
from swerl.runs.prepare import prepare
from swerl.trials.sandboxes import cluster as cluster_access
from swerl.trials.sandboxes import engine
from swerl.trials.settings import run_tag

pytestmark = [pytest.mark.trials, pytest.mark.slow]


def make_run(runs_dir, name, sets, supervisor):
    """A run's directory and row, as a start leaves them. Its processes are ``supervisor``'s, dead or alive."""
    overrides = {"experiment.runs_dir": str(runs_dir), "experiment.exp_name": name, **sets}
    config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", overrides, env={})
    run = RunDir.at(config.run_dir)
    registry = Registry(run.registry)
    registry.prepare(run.id, config.digest)
    prepare(config, run, attempt=1, command=["swerl", "train"])
    registry.begin(run.id, supervisor, 4)
    registry.close()
    return config, run


def dead_process():
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = look(process.pid)
        process.kill()
    return seen.ref


@contextmanager
def alive(runs_dir, name, sets):
    """A run that somebody works at."""
    _, run = make_run(runs_dir, name, sets, this_process())
    with hold(run.lock):
        yield run


def die_at_work(config, run, task, **environment):
    """A runner of the run, killed while two of its trials wait for their policy."""
    made = settings_for(run.root)
    harbor = {**made.harbor, "environment": {**trial_settings(config)["environment"], **environment}}
    settings = replace(made, harbor=harbor, sandbox={**made.sandbox, "network": "none"})

    async def forever(messages):
        await asyncio.sleep(600)

    async def main():
        gateway = await FakeGateway(settings.services_path, forever).start()
        process = runner_process(settings)
        trials = [asyncio.create_task(ask(settings, request_for(task, sample=n))) for n in range(2)]
        while len(gateway.requests) < 2:
            await asyncio.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        await asyncio.gather(*trials, return_exceptions=True)
        await gateway.stop()

    asyncio.run(main())


def swerl(*arguments):
    done = subprocess.run([sys.executable, "-m", "swerl.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reap(run):
    command = [sys.executable, "-P", "-m", "swerl.trials.reap", "--run-dir", str(run.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_pods(tmp_path):
    runs = tmp_path / "runs"
    with cluster() as kit:
        path = kit.kubeconfig(tmp_path / "kubeconfig")
        api = k8s.CoreV1Api(k8s_config.new_client_from_config(config_file=str(path)))
        sets = {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment"}
        sets |= {"k8s.kubeconfig": str(path), "k8s.namespace": "rl"}

        def plant(name, labels):
            spec = {"containers": [{"name": "main", "image": "x", "resources": {}}]}
            api.create_namespaced_pod("rl", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec})

        config, dead = make_run(runs, "dead", sets, dead_process())
        _, dead_too = make_run(runs, "dead-too", sets, dead_process())
        with alive(runs, "alive", sets) as living:
            die_at_work(config, dead, make_task(tmp_path), override_cpus=1, override_memory_mb=256)
            left = set(kit.pods)
            assert len(left) == 2 and len(kit.policies) == 1
            plant("of-the-second", {cluster_access.LABEL: run_tag(dead_too.root)})
            plant("of-the-living", {cluster_access.LABEL: run_tag(living.root)})
            plant("of-nobody", {"app": "something-else"})
            said = swerl("clean", "dead-too", "--yes", "--runs-dir", runs)
            assert "removed 1 parts of sandboxes" in said and set(kit.pods) == {*left, "of-the-living", "of-nobody"}
            said = swerl("clean", "--runs-dir", runs)
            assert "dead: " in said and "removed 3 parts of sandboxes" in said and "alive" not in said  # two pods and their policy
            assert set(kit.pods) == {"of-the-living", "of-nobody"} and kit.policies == {}
            assert "dead: nothing was left" in swerl("clean", "--runs-dir", runs)
            assert reap(dead).stdout == "0\n"
        done = reap(living)  # its caller is who must know that nobody works at it
        assert (done.returncode, done.stdout, set(kit.pods)) == (0, "1\n", {"of-nobody"}), done.stderr
        path.unlink()
        done = reap(dead)
        assert done.returncode == 1 and "SWERL-T051" in done.stderr and "Traceback" not in done.stderr
        said = swerl("clean", "--runs-dir", runs)
        assert "dead: containers or pods of the run may be left: " in said and "SWERL-T051" in said


@pytest.mark.long
def test_containers(tmp_path, monkeypatch):
    try:
        with Engine(tmp_path / "e") as kit:
            kit.load_base()
            for name, value in kit.environment.items():
                monkeypatch.setenv(name, value)
            containers_of_dead_runs(tmp_path, kit, monkeypatch)
    except Missing as error:
        pytest.skip(f"no Docker engine: {error}")


def containers_of_dead_runs(tmp_path, kit, monkeypatch):
    runs, host = tmp_path / "runs", kit.environment["DOCKER_HOST"]
    sets = {"harbor_agent.environment_import_path": "harbor.environments.docker.docker:DockerEnvironment", "harbor_agent.docker_host": host}

    def plant(name, tag):
        label = ["--label", f"{engine.LABEL}={tag}"] if tag else []
        kit.docker("run", "--detach", "--name", name, *label, IMAGE, "sleep", "600")
        kit.docker("network", "create", *label, name)
        kit.docker("volume", "create", *label, name)
        return {f"{kind} {name}" for kind in ("container", "network", "volume")}

    config, dead = make_run(runs, "dead", sets, dead_process())
    _, dead_too = make_run(runs, "dead-too", sets, dead_process())
    with alive(runs, "alive", sets) as living:
        die_at_work(config, dead, make_task(tmp_path, test_sh="#!/bin/bash\n"))
        monkeypatch.delenv("DOCKER_HOST")  # the run's own configuration says where its engine is
        left = set(kit.left())
        assert len(left) == 2, left
        plant("second", run_tag(dead_too.root))
        third, nobody = plant("third", run_tag(living.root)), plant("nobody", "")
        said = swerl("clean", "dead-too", "--yes", "--runs-dir", runs)
        assert "removed 3 parts of sandboxes" in said and set(kit.left()) == left | third | nobody
        said = swerl("clean", "--runs-dir", runs)
        assert "dead: " in said and "removed 2 parts of sandboxes" in said and "alive" not in said
        assert set(kit.left()) == third | nobody
    monkeypatch.setenv("DOCKER_HOST", host)
    done = reap(living)
    assert (done.returncode, done.stdout, set(kit.left())) == (0, "3\n", nobody), done.stderr
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    done = reap(dead)
    assert done.returncode == 1 and "docker" in done.stderr and "Traceback" not in done.stderr
