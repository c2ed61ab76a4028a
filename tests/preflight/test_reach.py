"""Names, clocks, quotas, certificates, links, watches and the disk: each finding is triggered, and each fault taken away again."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from swerl.preflight import CHECKS, cards, kubeapi
from swerl.preflight.runner import select

DOCKER = {"harbor_agent.environment_import_path": "harbor.environments.docker.docker:DockerEnvironment"}
KUBERNETES = {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment"}
CUDA = {"infrastructure.device": "cuda", "infrastructure.ngpus_per_node": 8, "vllm.gen_tp": 2}


@contextmanager
def api_server(answers: Mapping[str, Any], skew_s: float = 0.0) -> Iterator[str]:
    """A Kubernetes API server whose clock is ``skew_s`` ahead."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path, {})).encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + skew_s, usegmt=True)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def on(server: str, folder: Path, **sets: object) -> dict[str, object]:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return {**KUBERNETES, "k8s.kubeconfig": str(path), "k8s.namespace": "rl", **sets}


def test_a_name_that_does_not_resolve(site):
    sets = {**DOCKER, "harbor_agent.docker_host": "tcp://no-such-host.invalid:2376"}
    report = site.preflight(sets, only=["SWERL-P513"])
    assert report.ids == {"SWERL-P513"} and "no-such-host.invalid" in report.fatal[0].message
    site.program("getent", "echo 10.0.0.1 STREAM")
    assert not site.preflight(sets, only=["SWERL-P513"]).problems


@pytest.mark.parametrize(("skew_s", "ill"), [(0.0, False), (400.0, True), (-400.0, True)])
def test_clock_of_the_cluster(site, tmp_path, skew_s, ill):
    with api_server({"/version": {}}, skew_s) as server:
        report = site.preflight(on(server, tmp_path), only=["SWERL-P514"])
    assert report.ids == ({"SWERL-P514"} if ill else set())
    assert not ill or ("ahead of" if skew_s > 0 else "behind") in report.problems[0].message


def test_clock_of_the_docker_daemon(site):
    site.program("docker", "date -u -d '-2 hours' +%Y-%m-%dT%H:%M:%S.123456789Z")
    report = site.preflight(DOCKER, only=["SWERL-P514"])
    assert report.ids == {"SWERL-P514"} and re.search(r"72\d\d s behind", report.problems[0].message)
    site.program("docker", "date -u +%Y-%m-%dT%H:%M:%S.123456789Z")
    assert not site.preflight(DOCKER, only=["SWERL-P514"]).problems


def test_credentials_from_a_program(site, tmp_path):
    """What clouds write into a kubeconfig: the program is run as the runner would; one that fails is named with its own words."""
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cloud-token", "args": ["--for", "c"], "env": None}
    with api_server({"/version": {}}, 400.0) as server:
        sets = on(server, tmp_path)
        path = tmp_path / "kubeconfig"
        config = yaml.safe_load(path.read_text())
        config["users"] = [{"name": "u", "user": {"exec": entry}}]
        path.write_text(yaml.safe_dump(config))
        answer = json.dumps({"kind": "ExecCredential", "status": {"token": "t-1"}})
        site.program("cloud-token", f'test "$2" = c && grep -q ExecCredential <<< "$KUBERNETES_EXEC_INFO" && echo \'{answer}\'')
        assert site.preflight(sets, only=["SWERL-P514"]).ids == {"SWERL-P514"}, "the server was asked, and its clock is wrong"
        config_now = site.context(sets)
        assert kubeapi.cluster_of(config_now).headers == {"Authorization": "Bearer t-1"}
        site.program("cloud-token", "echo 'token expired: log in again' >&2; exit 1")
        report = site.preflight(sets, only=["SWERL-P504"])
    assert "cloud-token gives no credentials: token expired: log in again" in report.fatal[0].message


def test_cluster_is_found_where_the_runner_finds_it(site, tmp_path):
    """KUBECONFIG, and without any file the service account of the pod."""
    sets = {**KUBERNETES, "k8s.namespace": "rl"}
    with api_server({"/version": {}}, 400.0) as server:
        on(server, tmp_path)
        site.env["KUBECONFIG"] = f"{tmp_path / 'none'}:{tmp_path / 'kubeconfig'}"
        assert site.preflight(sets, only=["SWERL-P514"]).ids == {"SWERL-P514"}
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("t-2\n")
    (account / "ca.crt").write_text(Path(ssl.get_default_verify_paths().cafile or certifi.where()).read_text())
    site.places["service_account"] = account
    site.env |= {"KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    found = kubeapi.cluster_of(site.context(sets))
    assert found.server == "https://10.96.0.1:6443" and found.headers == {"Authorization": "Bearer t-2"} and found.tls is not None


def test_quota_of_the_namespace(site, tmp_path):
    path = "/api/v1/namespaces/rl/resourcequotas"
    small = {"metadata": {"name": "team"}, "status": {"hard": {"pods": "10", "requests.memory": "64Gi"}, "used": {"pods": "7"}}}
    sets = {"harbor_runtime.num_workers": 4, "harbor_agent.environment_override_memory_mb": 8192}
    with api_server({path: {"items": [small]}}) as server:
        report = site.preflight(on(server, tmp_path, **sets), only=["SWERL-P515"])
        assert "4 sandboxes need 4 of pods, quota team leaves 3" in report.fatal[0].message and len(report.fatal) == 1
        sets["harbor_runtime.num_workers"] = 3
        assert not site.preflight(on(server, tmp_path, **sets), only=["SWERL-P515"]).problems


def test_certificates_of_the_docker_daemon(site, tmp_path):
    site.env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    report = site.preflight(DOCKER, only=["SWERL-P516"])
    assert "ca.pem, cert.pem, key.pem" in report.fatal[0].message
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    assert not site.preflight(DOCKER, only=["SWERL-P516"]).problems
    (tmp_path / "key.pem").chmod(0o644)
    assert site.preflight(DOCKER, only=["SWERL-P516"]).warnings


def topology(*rows: str) -> str:
    """``nvidia-smi topo -m`` of some cards, its underlined head included."""
    head = "\t\x1b[4m" + "\t".join(f"GPU{i}" for i in range(len(rows))) + "\tCPU Affinity\x1b[0m"
    return "\n".join([head, *(f"GPU{i}\t" + "\t".join(row.split()) + "\t0-15" for i, row in enumerate(rows))])


def test_links_between_gpus(site):
    def said(*rows: str, **sets: object) -> list[str]:
        site.gpus(len(rows), topology=topology(*rows))
        return [p.message for p in site.preflight({**CUDA, **sets}, only=["SWERL-P606"]).problems]

    four = {"vllm.gen_tp": 4}
    assert said("X NV18", "NV18 X") == []
    assert "no NVLink between the GPUs of a replica" in said("X SYS", "SYS X")[0]
    assert said("X NV12 SYS SYS", "NV12 X SYS SYS", "SYS SYS X NV12", "SYS SYS NV12 X") == [], "replicas of two need no link between them"
    half = said("X NV18 NV18 NV18", "NV18 X NV18 NV18", "NV18 NV18 X PHB", "NV18 NV18 PHB X", **four)
    assert half == ["GPU 2 and GPU 3 of a replica are joined by PHB, others by NVLink (1 of 6 pairs)"]
    weak = said("X NV18 NV18 NV18", "NV18 X NV18 NV18", "NV18 NV18 X NV12", "NV18 NV18 NV12 X", **four)
    assert weak == ["pairs of a replica have NV12 and NV18: some links are down"]
    site.env |= {"NCCL_P2P_DISABLE": "1", "NCCL_SOCKET_IFNAME": "bond7"}
    messages = said("X NV18", "NV18 X")
    assert any("NCCL_P2P_DISABLE" in m for m in messages) and any("bond7" in m for m in messages)


@pytest.mark.parametrize(
    ("field", "value", "word", "severity"),
    [
        ("compute_mode", "Exclusive_Process", "compute mode Exclusive_Process", "fatal"),
        ("mig.mode.current", "Enabled", "MIG is on", "fatal"),
        ("ecc.errors.uncorrected.volatile.total", "3", "3 uncorrected memory errors", "warning"),
        ("fabric.state", "In Progress", "the NVSwitch fabric is 'In Progress'", "fatal"),
        ("gpu_recovery_action", "Reset", "the driver wants 'Reset'", "fatal"),
    ],
)
def test_state_of_the_cards(site, field, value, word, severity):
    site.gpus(8)
    assert not site.preflight(CUDA, only=["SWERL-P607"]).problems
    site.gpus(8, on_card_1={field: "[N/A]"})
    assert not site.preflight(CUDA, only=["SWERL-P607"]).problems, "what a card does not tell is no fault"
    site.gpus(8, on_card_1={field: value})
    [problem] = site.preflight(CUDA, only=["SWERL-P607"]).problems
    assert (problem.where, problem.severity) == ("GPU 1", severity) and word in problem.message


def test_memory_that_nobody_here_holds(site):
    """Another container's, or a leak: the engine would end at its start where less is free than it is told to take."""
    sets = {**CUDA, "vllm.gpu_memory_utilization": 0.85}
    for used, fatal in (("4", None), ("4000", False), ("40000", True)):
        site.gpus(8, on_card_1={"memory.used": used}, processes="GPU-0, 1, /opt/python, 2\\n")
        found = [p for p in site.preflight(sets, only=["SWERL-P602"]).problems if p.where == "GPU 1"]
        assert [p.severity == "fatal" for p in found] == ([] if fatal is None else [fatal]), found
        assert fatal is None or "in use by no visible process" in found[0].message


def test_a_broken_driver_is_said_once(site):
    """SWERL-P601 names it; what else would ask the driver stands back."""
    site.program("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9")
    report = site.preflight(CUDA, only=["gpu", "SWERL-P608"])
    about_driver = {"SWERL-P601", "SWERL-P602", "SWERL-P603", "SWERL-P606", "SWERL-P607", "SWERL-P608"}
    assert report.ids & about_driver == {"SWERL-P601"} and not any("itself failed" in p.message for p in report.problems)


@pytest.mark.train
def test_gpus_that_do_not_add_up(site):
    """Two cards by what nvidia-smi says, and none that CUDA finds: the probe's own words are in the finding."""
    site.gpus(2)
    assert "SWERL-P608" not in {c.id for c in select(CHECKS)}, "it takes seconds and runs only when asked for"
    report = site.preflight({**CUDA, "infrastructure.ngpus_per_node": 2}, only=["SWERL-P608"])
    assert report.ids == {"SWERL-P608"} and "2 GPUs do not add up: " in report.fatal[0].message


@pytest.mark.train
def test_ranks_add_up_and_a_dead_one_ends_them():
    """The probe of the collectives itself, on the CPU: the sum is right, and a rank that cannot start is an end, not a wait."""
    probe = [sys.executable, "-P", str(cards.PROBE), "--ranks", "2", "--backend"]
    done = subprocess.run([*probe, "gloo"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["bus_gb_s"] > 0, done.stderr
    done = subprocess.run([*probe, "nccl"], capture_output=True, text=True, timeout=120, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1 and done.stderr.strip()


def test_limits_of_inotify(site):
    folder = site.proc() / "sys" / "fs" / "inotify"
    folder.mkdir(parents=True)
    for instances, ill in ((64, True), (8192, False)):
        (folder / "max_user_instances").write_text(f"{instances}\n")
        (folder / "max_user_watches").write_text("65536\n")
        assert site.preflight(only=["SWERL-P712"]).ids == ({"SWERL-P712"} if ill else set())


def test_rate_of_the_disk(site, monkeypatch):
    """A large policy (a sparse file) that takes an hour to read; the clock is what is slow."""
    from swerl.preflight import reach

    with (site.model / "model-00002.safetensors").open("wb") as file:
        file.truncate(40 << 30)
    for seconds, ill in ((0.001, False), (5.0, True)):
        ticks = iter(range(1000))
        monkeypatch.setattr(reach.time, "monotonic", lambda: seconds * next(ticks))  # noqa: B023
        found = [f for f in reach.PolicyIsReadFast().run(site.context()) if hasattr(f, "severity")]
        assert [f.id for f in found] == (["SWERL-P713"] if ill else [])
        assert all("minutes, at every start" in f.message for f in found)
