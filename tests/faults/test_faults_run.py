"""Faults of the sandbox, the profile and an earlier start: J9, J10, J18, J25, J26, J30, J36, J37, J38, J42, J43, J51."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from swerl.config import dump_resolved
from swerl.preflight import run_file

DOCKER = {"harbor_agent.environment_import_path": "harbor.environments.docker.docker:DockerEnvironment"}
KUBERNETES = {"harbor_agent.environment_import_path": "harbor.environments.ack:ACKEnvironment"}
CLAUDE = {"harbor_agent.agent_name": "claude-code", "harbor_agent.agent_import_path": "harbor.agents.installed.claude_code:ClaudeCode"}


def test_j9_docker_without_compose(site):
    """The daemon answers, the plugin is missing."""
    site.program("docker", 'case "$1" in info) echo 28.2.2;; *) echo "unknown command" >&2; exit 1;; esac')
    report = site.preflight(DOCKER, only=["SWERL-P503"])
    assert report.ids == {"SWERL-P503"} and "compose" in report.fatal[0].message
    site.program("docker", 'case "$1" in info) echo 28.2.2;; compose) echo 2.40.1;; esac')
    assert site.preflight(DOCKER, only=["SWERL-P503"]).ok


@contextmanager
def api_server(answers: Mapping[str, Any]) -> Iterator[str]:
    """A Kubernetes API server, as far as preflight asks: a path's answer, 404 for others, 401 without the token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            path = self.path.partition("?")[0]
            authorised = self.headers.get("Authorization") == "Bearer secret"
            code, body = (200, answers[path]) if path in answers and authorised else (404 if authorised else 401, {"message": "no"})
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(path: Path, server: str, token: str = "secret") -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


HEALTHY_CLUSTER = {
    "/version": {"gitVersion": "v1.33.1"},
    "/api/v1/nodes": {"items": [{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}]},
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"status": {"allowed": True}},
}
REPORTS = "/apis/reports.kyverno.io/v1/ephemeralreports"


def test_j10_control_plane_choked_by_reports(site, tmp_path: Path):
    """The API server holds thousands of reports that a restarting controller lists again and again."""
    choked = {**HEALTHY_CLUSTER, REPORTS: {"items": [{}], "metadata": {"remainingItemCount": 5210}}}
    with api_server(choked) as server:
        sets = {**KUBERNETES, "k8s.kubeconfig": str(kubeconfig(tmp_path / "kubeconfig", server))}
        report = site.preflight(sets, only=["SWERL-P504"])
    assert report.ids == {"SWERL-P504"} and "5,211" in report.problems[0].message
    with api_server(HEALTHY_CLUSTER) as server:
        sets = {**KUBERNETES, "k8s.kubeconfig": str(kubeconfig(tmp_path / "kubeconfig", server))}
        assert site.preflight(sets, only=["SWERL-P504"]).ids == set()


def test_j18_validation_longer_than_anybody_waits(site):
    """Few workers and a long limit: a validation could take most of a day."""
    sets = {
        "harbor_runtime.num_workers": 1,
        "harbor_agent.max_timeout_sec": 4800,
        "harbor_agent.override_timeout_sec": 4800,
        "training.val_n": 8,
    }
    assert site.preflight(sets, only=["SWERL-P510"]).ids == {"SWERL-P510"}
    inner = {"harbor_agent.max_timeout_sec": 4800, "harbor_agent.override_timeout_sec": 4800}
    assert site.preflight(inner, only=["SWERL-P506"]).ids == {"SWERL-P506"}


def test_j25_configuration_in_another_language(tmp_path: Path):
    """A TOML file, which is no configuration: named at the line it stops making sense."""
    file = tmp_path / "config.toml"
    file.write_text('[model]\nmodel_path = "/models/x"\n')
    report = run_file(file)
    assert not report.ok and {p.id for p in report.problems} <= {"SWERL-C001", "SWERL-C002", "SWERL-C004", "SWERL-C005"}


def test_j26_agent_runtime_not_mounted(site):
    """The runtime's image is named, the place where it is to appear is not."""
    sets = {**DOCKER, **CLAUDE, "harbor_agent.runtime_image": "example.org/agent:v1"}
    report = site.preflight(sets, only=["SWERL-P505"])
    assert report.ids == {"SWERL-P505"} and "runtime_mount_path" in report.fatal[0].message


def test_j30_agent_installed_without_network(site):
    """An agent that would be downloaded into every sandbox, and sandboxes without a network."""
    report = site.preflight(CLAUDE, only=["SWERL-P505"])
    assert report.ids == {"SWERL-P505"} and "downloaded" in report.fatal[0].message


def _checkpoint(site, *, world_size: int = 1, version: int = 2, sets: Mapping[str, object] | None = None) -> Path:
    """A committed checkpoint of this run, and the configuration it was started with."""
    from swerl.record.checkpoints import commit

    run_dir = site.root / "runs" / "site"
    actor = run_dir / "checkpoints" / "global_step_4" / "actor"
    actor.mkdir(parents=True)
    (actor / f"model_world_size_{world_size}_rank_0.pt").write_bytes(b"weights")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": version, "world_size": world_size}))
    commit(actor.parent, 4, "lineage:4")
    (run_dir / "resolved.json").write_bytes(dump_resolved(site.config(sets)[0]))
    return actor


def test_j36_checkpoint_of_the_other_fsdp(site):
    """The checkpoint says FSDP1, this run uses FSDP2; or it was written by another number of ranks."""
    _checkpoint(site, version=1)
    assert site.preflight(only=["SWERL-P903"]).ids == {"SWERL-P903"}
    assert site.preflight({"training.resume": "never"}, only=["SWERL-P903"]).ids == set()


def test_j37_pod_names_that_are_cut(site):
    """A prefix so long that the trial's own part does not fit into 63 characters."""
    sets = {**KUBERNETES, "harbor_agent.pod_name_prefix": "a-very-long-team-and-project-name"}
    assert site.preflight(sets, only=["SWERL-P508"]).ids == {"SWERL-P508"}
    assert site.preflight({**KUBERNETES, "harbor_agent.pod_name_prefix": "swerl-demo"}, only=["SWERL-P508"]).ids == set()


def test_j38_no_second_attempt(site):
    """One attempt: a passing fault of a sandbox loses the trial."""
    assert site.preflight({"harbor_agent.max_retries": 1}, only=["SWERL-P507"]).ids == {"SWERL-P507"}


def test_j42_learning_rate_changed_on_resume(site):
    """The checkpoint's scheduler would win over the new learning rate."""
    _checkpoint(site)
    assert site.preflight(only=["SWERL-P902"]).ids == set()
    report = site.preflight({"algorithm.learning_rate": 1e-5}, only=["SWERL-P902"])
    assert report.ids == {"SWERL-P902"} and str(site.config()[0].algorithm.learning_rate) in report.fatal[0].message


def test_j43_time_in_the_experiment_name(site):
    """A name with the date in it: the next start is another run."""
    for name in ("harbor-cc-sync-1n-20260411-093000", "exp-2026-04-11", "run_1775900000"):
        assert site.preflight({"experiment.exp_name": name}, only=["SWERL-P002"]).ids == {"SWERL-P002"}, name
    for name in ("qwen3-30b-a3b", "v2-lr1e-6", "swe-2507-instruct", "tasks-14415"):
        assert site.preflight({"experiment.exp_name": name}, only=["SWERL-P002"]).ids == set(), name


def test_j51_isolation_that_the_sandbox_cannot_give(site):
    """The profile asks for closed sandboxes, the kind of sandbox does not close them."""
    assert site.preflight(KUBERNETES, only=["SWERL-P511"]).ids == {"SWERL-P511"}
    assert site.preflight(only=["SWERL-P511"]).ids == set()
