"""Faults of the machine: J3, J5, J6, J7, J8, J16, J24, J31, J32, J45, J47."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def _mounts(point: Path, kind: str) -> str:
    real = Path("/proc/self/mountinfo").read_text()
    return f"{real}999 1 0:99 / {point} rw,relatime - {kind} server:/export rw\n"


def test_j3_environment_on_a_network_file_system(site):
    """The mount table shows the environment on NFS."""
    site.proc(self_mountinfo=_mounts(site.config()[0].environment.venv_path, "nfs4"))
    report = site.preflight(only=["SWERL-P709"])
    assert report.ids == {"SWERL-P709"} and report.ok and "nfs4" in report.warnings[0].message


def test_j24_tensor_parallel_workers_importing_over_the_network(site):
    """The same with a tensor-parallel engine: its workers give up waiting for each other."""
    site.proc(self_mountinfo=_mounts(site.config()[0].environment.venv_path, "fuse.cpfs"))
    report = site.preflight({"vllm.gen_tp": 2, "infrastructure.ngpus_per_node": 2}, only=["SWERL-P709"])
    assert report.ids == {"SWERL-P709"} and not report.ok


def test_j5_dead_control_groups(site):
    """The kernel's table shows what thousands of ended sandboxes left behind."""
    site.proc(cgroups="#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t61000\t1\npids\t8\t150\t1\n")
    report = site.preflight(only=["SWERL-P708"])
    assert report.ids == {"SWERL-P708"} and report.ok
    site.proc(cgroups="#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t120000\t1\n")
    assert not site.preflight(only=["SWERL-P708"]).ok


def test_j6_kernels_built_in_a_deleted_environment(site, tmp_path: Path):
    """A cached build file names a site-packages directory that is gone."""
    site.gpus(1)
    build = site.home / ".cache" / "flashinfer" / "0.6" / "90a" / "build.ninja"
    build.parent.mkdir(parents=True)
    build.write_text(f"cflags = -I{tmp_path}/old/lib/python3.12/site-packages/flashinfer/include\n")
    assert site.preflight({"infrastructure.device": "cuda"}, only=["SWERL-P710"]).ids == {"SWERL-P710"}


def test_j7_another_ray_cluster_would_be_joined(site):
    """RAY_ADDRESS leads the trainer to workers that do not have this environment."""
    site.env["RAY_ADDRESS"] = "10.0.0.7:6379"
    assert site.preflight(only=["SWERL-P702"]).ids == {"SWERL-P702"}


def test_j8_directory_that_hides_a_package(site, tmp_path: Path):
    """A directory named docker on PYTHONPATH hides the SDK."""
    (tmp_path / "path" / "docker").mkdir(parents=True)
    (tmp_path / "path" / "docker" / "__init__.py").write_text("")
    site.env["PYTHONPATH"] = str(tmp_path / "path")
    report = site.preflight(only=["SWERL-P803"])
    assert report.ids == {"SWERL-P803"} and "docker" in report.fatal[0].message


def test_j16_stale_listener_on_the_gateway_port(site):
    """Somebody listens already: the port, the process and its command are named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        report = site.preflight({"infrastructure.litellm_port": port}, only=["SWERL-P701"])
    assert report.ids == {"SWERL-P701"}
    assert str(port) in report.fatal[0].message and f"pid {os.getpid()}" in report.fatal[0].message


def test_another_run_has_the_port_of_rays_dashboard(site):
    """On GPUs Ray starts its dashboard, and ends at once where a second run of the host finds its port taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sets = {"infrastructure.ray_dashboard_port": listener.getsockname()[1]}
        assert site.preflight(sets, only=["SWERL-P701"]).ids == set()  # a CPU run starts none
        report = site.preflight({**sets, "infrastructure.device": "cuda"}, only=["SWERL-P701"])
    assert report.ids == {"SWERL-P701"} and "ray_dashboard_port" in report.fatal[0].message


def test_j31_sandboxes_without_a_memory_limit(site):
    """One runaway test suite would take the host with it; many bounded ones would too."""
    assert site.preflight({"harbor_agent.environment_override_memory_mb": None}, only=["SWERL-P705"]).ids == {"SWERL-P705"}
    site.proc(meminfo="MemTotal:       16384 kB\nPercpu:          1024 kB\n")
    assert site.preflight(only=["SWERL-P705"]).ids == {"SWERL-P705"}


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_the_container_counts_and_not_the_hosts(site, tmp_path: Path, version: int):
    """A control group's limit, its own or one above it, in either version; without one the whole host is there."""
    group = tmp_path / "cgroup" / ("memory" if version == 1 else "") / "pod"
    (group / "task").mkdir(parents=True)
    site.proc(self_cgroup="4:memory:/pod/task\n1:cpu:/\n" if version == 1 else "0::/pod/task\n")
    site.places["cgroup"] = tmp_path / "cgroup"
    assert not site.preflight(only=["SWERL-P705"]).problems
    (group / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(f"{1 << 30}\n")
    report = site.preflight(only=["SWERL-P705"])
    assert report.ids == {"SWERL-P705"} and "this container may use 1.0 GiB" in report.problems[0].message


def test_offloaded_states_that_the_host_cannot_hold(site):
    """Exact, and so fatal; with sandboxes elsewhere too."""
    site.gpus(8)
    shape = json.loads((Path(__file__).parents[1] / "forecast" / "shapes" / "qwen3-30b-a3b.json").read_text())
    (site.model / "config.json").write_text(json.dumps(shape))
    sets = {"infrastructure.device": "cuda", "infrastructure.ngpus_per_node": 8, "training.actor_offload": True}
    for memory_gib, fatal in ((64, True), (360, False), (900, None)):
        site.proc(meminfo=f"MemTotal:       {memory_gib << 20} kB\n", self_cgroup="0::/\n")
        found = site.preflight(sets, only=["SWERL-P705"]).problems
        assert [p.severity for p in found] == ([] if fatal is None else ["fatal" if fatal else "warning"]), found
        assert fatal is None or ("offloaded states" in found[0].message and "341.2 GiB" in found[0].message)


_IN_NAMESPACE = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("site_module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
site = module.Site(Path(sys.argv[2])); site.places["shm"] = Path(sys.argv[3])
site.proc(meminfo=f"MemTotal: {64 << 20} kB\\n", self_cgroup="0::/\\n")
report = site.preflight({"infrastructure.device": sys.argv[4]}, only=["SWERL-P704"])
print(json.dumps([report.ok, [p.message for p in report.problems]]))
"""


def _with_shm(site_module, tmp_path: Path, size: str, device: str, fill: str = "true") -> tuple[bool, list[str]]:
    """What SWERL-P704 says in a mount namespace whose shared memory is a real tmpfs of that size."""
    shm, folder = tmp_path / "shm", tmp_path / f"site-{size}-{device}"
    shm.mkdir(exist_ok=True)
    folder.mkdir()
    program = [sys.executable, "-c", _IN_NAMESPACE, site_module.__file__, str(folder), str(shm), device]
    shell = f'mount -t tmpfs -o size={size} tmpfs {shm} && {fill} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, "sh", *program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ok, messages = json.loads(done.stdout.splitlines()[-1])
    return ok, messages


def test_j32_shared_memory_full(site_module, tmp_path: Path):
    """Nearly full with a dead process's segment."""
    ok, messages = _with_shm(site_module, tmp_path, "64m", "cpu", f"head -c 60M /dev/zero > {tmp_path}/shm/psm_dead")
    assert not ok and "psm_dead 60.0 MiB" in messages[0]


def test_shared_memory_too_small_for_the_store_that_ray_chooses(site_module, tmp_path: Path):
    """On GPUs Ray chooses its store's size; where /dev/shm has less, it lies on the disk, slowly and without an error."""
    ok, [message] = _with_shm(site_module, tmp_path, "4g", "cuda")
    assert ok and "puts it on the disk of /tmp instead" in message
    assert _with_shm(site_module, tmp_path, "4g", "cpu") == (True, []), "the CPU's store is 500 MB by configuration"
    assert _with_shm(site_module, tmp_path, "12g", "cuda") == (True, [])


@pytest.mark.parametrize("plant", ["other version", "missing"])
def test_j45_environment_that_is_not_the_lock(site, tmp_path: Path, plant: str):
    """An environment in which one package is another version, or gone."""
    real = site.config()[0].environment.trials_venv_path
    copy = tmp_path / "venv"
    source = next(real.glob("lib/python3.*/site-packages"))
    target = copy / source.relative_to(real)
    target.mkdir(parents=True)
    (copy / "bin").mkdir()
    (copy / "bin" / "python").symlink_to(real / "bin" / "python")
    for info in source.glob("*.dist-info"):
        (target / info.name).mkdir()
    victim = next(target.glob("harbor-*.dist-info"))
    victim.rename(target / "harbor-0.0.1.dist-info") if plant == "other version" else shutil.rmtree(victim)
    report = site.preflight({"environment.trials_venv_path": str(copy)}, only=["SWERL-P802"])
    assert report.ids == {"SWERL-P802"} and "harbor" in report.fatal[0].message


def test_j47_somebody_else_on_the_gpus(site):
    """nvidia-smi lists a compute process that is none of ours."""
    site.gpus(1, processes=f"GPU-0, {os.getpid()}, /opt/other/python, 40960\\n")
    report = site.preflight({"infrastructure.device": "cuda"}, only=["SWERL-P602"])
    assert report.ids == {"SWERL-P602"} and "/opt/other/python" in report.fatal[0].message


def test_a_neighbour_on_a_card_that_is_not_ours(site):
    """CUDA_VISIBLE_DEVICES divides the host: who computes on the other cards is no finding, and only ours are counted."""
    site.gpus(2, processes=f"GPU-0, {os.getpid()}, /opt/other/python, 40960\\n")
    site.env["CUDA_VISIBLE_DEVICES"] = "1"
    one = {"infrastructure.device": "cuda", "infrastructure.ngpus_per_node": 1}
    assert site.preflight(one, only=["SWERL-P601", "SWERL-P602"]).ids == set()
    report = site.preflight({**one, "infrastructure.ngpus_per_node": 2}, only=["SWERL-P601"])
    assert "1 GPU(s) left by CUDA_VISIBLE_DEVICES=1, 2 wanted" in report.fatal[0].message
    site.env["CUDA_VISIBLE_DEVICES"] = "0"
    assert site.preflight(one, only=["SWERL-P602"]).ids == {"SWERL-P602"}
