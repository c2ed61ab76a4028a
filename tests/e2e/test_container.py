"""The trainer's image: built twice it has one digest, and the demo's smoke passes inside it, without root, rights or writable files.

Real builds by buildah on a base of debootstrap, a real container by runc. Needs root and these three; 20 minutes, 30 GB of disk.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swerl.environment.images import Image, Request, build

pytestmark = [pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/swerl-test-base:demo"
TAGS = ("localhost/swerl-test-trainer:first", "localhost/swerl-test-trainer:second")
TOOLS = ("buildah", "debootstrap", "runc")
USER = 10001


def buildah(*words: str) -> str:
    return subprocess.run(["buildah", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"install them: apt-get install --yes --no-install-recommends {' '.join(missing)}"
    packages = "bubblewrap,libnuma1,git,mount,python3"
    subprocess.run([str(ROOT / "containers" / "local-base.sh"), sys.base_prefix, BASE, "bookworm", packages], check=True)
    yield BASE
    subprocess.run(["buildah", "rmi", "--force", *TAGS, BASE], check=False, capture_output=True)


def trainer(base: str, tag: str) -> Image:
    return build(Request(ROOT, "trainer", "buildah", tag, extra="cpu", base_image=base))


@pytest.fixture(scope="module")
def image(base: str) -> Image:
    return trainer(base, TAGS[0])


@pytest.fixture(scope="module")
def demo_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's own policy and tasks of its kind, readable for every user. Two minutes."""
    root = tmp_path_factory.mktemp("demo")
    for words in (
        ["swerl.policy", "--out", root / "policy"],
        ["swerl.data.generate", "--out", root / "tasks", "--train", "64", "--val", "8"],
    ):
        subprocess.run([sys.executable, "-P", "-m", *map(str, words)], check=True, cwd=ROOT)
    for path in (root / "policy").iterdir():
        path.chmod(0o644)  # weights are saved for their owner alone
    return {"policy": root / "policy", "tasks": root / "tasks"}


@pytest.fixture
def root_of(image: Image) -> Iterator[Path]:
    """The image's files, mounted; never written, since the container's root is read-only."""
    container = buildah("from", image.name)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def bundle(folder: Path, files: Path, image: Image, command: list[str], binds: dict[str, Path]) -> None:
    """An OCI bundle of ``command`` with the image's own user and variables: no capability, no new privilege, read-only files, the host's
    network. /proc is whole, which bubblewrap needs to mount one of its own; Docker's words for that are in docs/environment.md."""
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    spec: dict[str, Any] = json.loads((folder / "config.json").read_text())
    says = json.loads(buildah("inspect", "--type", "image", image.name))["OCIv1"]["config"]
    uid, gid = map(int, says["User"].split(":"))
    assert (uid, gid) == (USER, USER)
    spec["root"] = {"path": str(files), "readonly": True}
    spec["process"] |= {"terminal": False, "user": {"uid": uid, "gid": gid}, "cwd": says["WorkingDir"], "env": says["Env"], "rlimits": []}
    spec["process"] |= {"args": [*says["Entrypoint"], *command], "capabilities": {}, "noNewPrivileges": True}
    linux = spec["linux"]
    linux |= {"maskedPaths": [], "readonlyPaths": [], "namespaces": [n for n in linux["namespaces"] if n["type"] != "network"]}
    for mount in spec["mounts"]:
        if mount["destination"] == "/dev/shm":
            mount["options"] = ["nosuid", "noexec", "nodev", "mode=1777", "size=4g"]
    spec["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=4g"]}
    )
    for place, source in binds.items():
        mode = "rw" if place == "/runs" else "ro"
        spec["mounts"].append({"destination": place, "type": "bind", "source": str(source), "options": ["bind", mode]})
    (folder / "config.json").write_text(json.dumps(spec))


def test_built_twice_it_has_one_digest(base: str, image: Image) -> None:
    again = trainer(base, TAGS[1])
    assert image.digest == again.digest and image.digest.startswith("sha256:")


def test_the_demos_smoke_passes_in_it(demo_world: dict[str, Path], root_of: Path, image: Image, tmp_path: Path) -> None:
    """A real step of 8 x 4 trials: engine, gateway, runner and bubblewrap sandboxes as the image's user."""
    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, USER, USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sets = {"model.model_path": "/models/policy", "data.data_dir": "/data", "experiment.runs_dir": "/runs"}
    sets |= {"infrastructure.litellm_port": str(port)}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    command = ["smoke", "--config", "/opt/swerl/config.yaml", "--profile", "demo-cpu", *words]
    bundle(tmp_path, root_of, image, command, {"/runs": runs, "/models/policy": demo_world["policy"], "/data": demo_world["tasks"]})
    name = f"swerl-test-{os.getpid()}"
    done = subprocess.run(["runc", "run", "--bundle", str(tmp_path), name], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "every gate is passed" in said, said[-6000:]
    assert "SWERL-P519" in said and "memory and CPU limits per sandbox" in said, "what sandboxes lack without root is said"
