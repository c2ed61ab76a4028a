"""Trials in pods, through the whole runner, against the kit's API server: starts, commands, transfers, grading, faults, leftovers."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
from kubekit import Cluster
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes import watch
from trialkit import FIX, Running, make_task, script

from swerl.facts.sandbox import KUBERNETES
from swerl.trials.sandboxes import cluster as cluster_access
from swerl.trials.sandboxes import kubernetes

pytestmark = [pytest.mark.trials, pytest.mark.slow]


@contextmanager
def cluster(slow_s=0.0):
    """A cluster in a thread of its own, as a cluster is elsewhere: the client's blocking calls must not stop it."""
    loop, kit = asyncio.new_event_loop(), Cluster(slow_s)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(kit.start(), loop).result(10)
    kit.on_its_loop = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(30)
    kubernetes._policies.clear()
    try:
        yield kit
    finally:
        kit.on_its_loop(kit.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def running(tmp_path, kit, policy, network="none", **changes):
    kwargs = {"namespace": "rl", "kubeconfig": str(kit.kubeconfig(tmp_path / "kubeconfig")), "startup_timeout_s": 20, "name_prefix": "rl"}
    kwargs["pod_overrides"] = {"metadata": {"labels": {"harbor-run": "rl"}}, "spec": {"activeDeadlineSeconds": 600}}
    made = Running(tmp_path / "run", policy, **changes)
    environment = {"import_path": KUBERNETES, "kwargs": kwargs, "override_cpus": 1, "override_memory_mb": 256}
    sandbox = {**made.settings.sandbox, "network": network}
    made.settings = replace(made.settings, harbor={**made.settings.harbor, "environment": environment}, sandbox=sandbox)
    made.runner.settings = made.settings
    return made


TEST_SH = """#!/bin/bash
cd /app
if grep -q 'a + b' calc.py; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""


def test_a_repair_in_a_pod(tmp_path):
    async def main(kit):
        task = make_task(tmp_path, name="a-task-with-a-name-longer-than-any-label-of-a-cluster-may-be", test_sh=TEST_SH)
        # the shell's start-up file is the agent's; what the verifier's shell reads is not
        work = script(f"cat calc.py; echo 'exit 7' > /root/.bashrc; (setsid sleep 4323 &); {FIX}", "exit 3")
        async with running(tmp_path, kit, work, network="none") as ran:
            result = await ran.run(task)
            seen = [m["content"] for m in ran.gateway.requests[-1]["messages"] if m["role"] == "tool"]
            return result, seen, ran.settings

    with cluster(slow_s=1.0) as kit:
        result, seen, settings = asyncio.run(main(kit))
        pod, grader = kit.seen
        assert (
            grader["metadata"]["labels"][cluster_access.NETWORK_LABEL] == "none" and grader["metadata"]["name"] != pod["metadata"]["name"]
        )
        assert {"kind": "left-running", "path": "sleep4323"} in result.info["findings"]
        assert (result.outcome.value, result.reward, result.error) == ("completed", 1.0, None)
        assert "return a - b" in seen[0]
        labels, container = pod["metadata"]["labels"], pod["spec"]["containers"][0]
        assert labels[cluster_access.LABEL] == settings.run_tag and labels["harbor-run"] == "rl"
        assert pod["spec"]["activeDeadlineSeconds"] == 600 and pod["spec"]["automountServiceAccountToken"] is False
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == "256Mi"
        assert container["imagePullPolicy"] == "IfNotPresent" and not container["securityContext"]["privileged"]
        assert kit.pods == {} and kit.policies == {}  # the runner's stop leaves neither


def test_what_the_policy_lets_out(monkeypatch):
    monkeypatch.setattr(cluster_access.socket, "gethostbyname", lambda host: "10.0.0.7")
    gateway = cluster_access.policy("tag", "gateway.example:8002")["spec"]
    assert gateway["egress"] == [{"to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}], "ports": [{"protocol": "TCP", "port": 8002}]}]
    assert gateway["podSelector"] == {"matchLabels": {"swerl.run": "tag", "swerl.network": "gateway"}} and gateway["ingress"] == []
    nothing = cluster_access.policy("tag", None)["spec"]
    assert nothing["egress"] == [] and nothing["policyTypes"] == ["Ingress", "Egress"]
    monkeypatch.setattr(cluster_access.socket, "gethostbyname", lambda host: "127.0.0.1")
    with pytest.raises(Exception, match="SWERL-T053"):
        cluster_access.policy("tag", "localhost:8002")


def test_a_busy_server_costs_time_and_nothing_else(tmp_path):
    async def main(kit):
        kit.faults += [503, 429, 500]
        kit.exec_faults += [500, 503]
        async with running(tmp_path, kit, script(FIX)) as ran:
            return await ran.run(make_task(tmp_path, test_sh=TEST_SH))

    with cluster() as kit:
        result = asyncio.run(main(kit))
        assert (result.outcome.value, result.reward, result.attempts) == ("completed", 1.0, 1)
        assert not kit.faults and not kit.exec_faults


def test_a_connection_that_breaks_is_the_clusters_failure_and_is_retried(tmp_path):
    """Never the output of a command: the policy must not see it, and the verifier must not score it."""

    async def main(kit):
        async def policy(messages):
            if len(kit.seen) == 1:
                kit.cut_exec = 1
            return script(FIX)(messages)

        async with running(tmp_path, kit, policy) as ran:
            result = await ran.run(make_task(tmp_path, test_sh=TEST_SH))
            seen = [m["content"] for request in ran.gateway.requests for m in request["messages"] if m["role"] == "tool"]
            return result, seen, ran.events("trial.failed")

    with cluster() as kit:
        result, seen, failed = asyncio.run(main(kit))
        assert (result.outcome.value, result.reward, result.attempts) == ("completed", 1.0, 2)
        assert len(kit.seen) == 4 and seen == ["(no output)"]
        assert failed[0]["outcome"] == "infra_failed" and "broke" in failed[0]["error"]


def test_a_connection_that_breaks_with_the_container_is_the_agents_doing(tmp_path):
    async def main(kit):
        async def policy(messages):
            if not any(message["role"] == "assistant" for message in messages):
                kit.cut_exec = 1
                (pod,) = kit.pods.values()
                pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0, "reason": "Completed"}}
            return script("kill 1")(messages)

        async with running(tmp_path, kit, policy) as ran:
            return await ran.run(make_task(tmp_path, test_sh=TEST_SH)), ran.events("trial.failed")

    with cluster() as kit:
        result, failed = asyncio.run(main(kit))
        assert (result.outcome.value, result.reward, result.in_loss, result.attempts) == ("agent_error", 0.0, True, 1), result
        assert not failed and "the pod's container ended" in result.error


@pytest.mark.parametrize(("image", "slow_s", "said"), [("missing/image:1", 0.0, "ImagePullFailed"), ("swerl/host", 60.0, "PodNotStarted")])
def test_pods_that_do_not_start_are_named(tmp_path, image, slow_s, said):
    async def main(kit):
        task = make_task(tmp_path, test_sh=TEST_SH)
        (task / "task.toml").write_text((task / "task.toml").read_text().replace("swerl/host", image))
        ran = running(tmp_path, kit, script(FIX), max_attempts=1)
        ran.runner.settings.harbor["environment"]["kwargs"]["startup_timeout_s"] = 3
        async with ran:
            return await ran.run(task)

    with cluster(slow_s) as kit:
        result = asyncio.run(main(kit))
        assert (result.outcome.value, result.graded) == ("env_failed", False) and result.error.startswith(said), result.error
        assert kit.pods == {}


def test_a_node_on_which_nothing_starts_is_left_alone(tmp_path):
    async def main(kit):
        kit.nodes, kit.bad_nodes = ["node-a", "node-a", "node-b"], {"node-b"}
        async with running(tmp_path, kit, script(FIX), num_workers=1) as ran:
            for number in range(6):
                result = await ran.run(make_task(tmp_path, f"t{number}", test_sh=TEST_SH))
                assert result.reward == 1.0, result
            return ran.runner.scheduler.stats(), ran.events("host.quarantined")

    with cluster() as kit:
        stats, events = asyncio.run(main(kit))
        assert list(stats["quarantined_hosts"]) == ["node-b"] and "no space left" in stats["quarantined_hosts"]["node-b"]
        assert [event["host"] for event in events] == ["node-b"] and stats["quarantined"] == {}
        places = [pod["spec"]["nodeName"] for pod in kit.seen]
        assert places.count("node-b") == 4 and "node-b" not in places[-3:]


def test_the_reaper_takes_the_runs_pods_and_nobody_elses(tmp_path):
    def body(name, tag):
        main = {"name": "main", "image": "x", "resources": {}}
        labels = {cluster_access.LABEL: tag}
        metadata = {"name": name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [main]}}

    with cluster() as kit:
        path = str(kit.kubeconfig(tmp_path / "kubeconfig"))
        api = k8s.CoreV1Api(k8s_config.new_client_from_config(config_file=path))
        for name, tag in (("one", "mine"), ("two", "mine"), ("three", "theirs")):
            api.create_namespaced_pod("rl", body(name, tag))
        watched = {
            e["object"].metadata.name for e in watch.Watch().stream(api.list_namespaced_pod, "rl", timeout_seconds=1, _request_timeout=2)
        }
        assert watched == {"one", "two", "three"}
        assert cluster_access.reap("mine", "rl", path) == 2 and list(kit.pods) == ["three"]
        assert "kit" not in api.read_namespaced_pod_log("three", "rl")
        kit.on_its_loop(kit.evict("three"))
        with pytest.raises(RuntimeError, match="cluster"):
            cluster_access.reap("mine", "rl", str(tmp_path / "none"))
