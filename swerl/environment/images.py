"""Images from the Containerfiles in ``containers/``, twice the same: a staged context, fixed times, and a digest that is printed.

``stage(project, target, folder)`` copies exactly the files that a target needs, with fixed modes and times, so that neither a working
directory nor a clock reaches the image. ``build(request)`` runs buildah or docker on it. buildah gives equal manifest digests for equal
inputs, in OCI format: Docker's own format holds a random host name, and OCI's has no health check (containers/compose.yaml says it again);
docker's older builders keep times of their own, and its result is reported as what it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swerl.environment.exports import find_uv
from swerl.environment.lock import load_lock
from swerl.errors import fail

_CODE = (
    "pyproject.toml",
    "uv.lock",
    "README.md",
    "LICENSE",
    "packages",
    "containers/seal.py",
    "scripts/leave_out.py",
    "config.yaml",
    "schema",
    "profiles",
    "swerl",
)

CONTEXTS: dict[str, tuple[str, ...]] = {
    "trainer": _CODE,
    "trials": _CODE,
    "sandbox": ("build/sandbox-requirements.txt", "containers/seal.py"),
    "agents": ("build/agents-image",),
}
"""What each target's Containerfile copies. Files of ``build/`` are made before: ``sandbox_requirements``, ``swerl.environment.agents``."""


@dataclass(frozen=True, slots=True)
class Request:
    """``base_image`` and ``uv_image`` replace the digests that the Containerfile names; with a base of one's own and no uv image, the uv of
    this host is used."""

    project: Path
    target: str
    engine: str
    tag: str
    extra: str | None = None
    base_image: str | None = None
    uv_image: str | None = None
    epoch_s: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    digest: str
    reproducible: bool


def engine_here(wanted: str = "auto") -> str:
    """buildah before docker: it needs no daemon and gives equal digests."""
    for name in ("buildah", "docker") if wanted == "auto" else (wanted,):
        if shutil.which(name):
            return name
    raise fail("SWERL-E030", f"no {'buildah or docker' if wanted == 'auto' else wanted} here", "install buildah", "PATH")


def stage(project: Path, target: str, folder: Path, epoch_s: int = 0) -> None:
    """Copy the context of a target; SWERL-E031 names a file that is not there."""
    for name in (*CONTEXTS[target], f"containers/{target}.Containerfile"):
        source = project / name
        if not source.exists():
            raise fail(
                "SWERL-E031", f"the {target} image needs {name}", "run `make image`, which makes it, or restore it from git", str(source)
            )
        for path in _files(source):
            copy = folder / path.relative_to(project)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (epoch_s, epoch_s))


def build(request: Request) -> Image:
    lock = load_lock(request.project / "uv.lock")
    with tempfile.TemporaryDirectory(prefix="swerl-image-") as temporary:
        context = Path(temporary) / "context"
        context.mkdir()
        stage(request.project, request.target, context, request.epoch_s)
        uv_image = request.uv_image
        if uv_image is None and request.base_image is not None and request.target != "agents":
            uv_image = _local_uv(request.project, request.engine, Path(temporary))
        arguments = {"LOCK_SHA256": lock.sha256} if request.target in ("trainer", "trials") else {}
        arguments |= {"BASE_IMAGE": request.base_image} if request.base_image else {}
        arguments |= {"UV_IMAGE": uv_image} if uv_image else {}
        arguments |= {"EXTRA": request.extra} if request.extra else {}
        _run(build_command(request, context, arguments), {"SOURCE_DATE_EPOCH": str(request.epoch_s)})
    return Image(request.tag, _digest(request), reproducible=request.engine == "buildah")


def build_command(request: Request, context: Path, arguments: dict[str, str]) -> list[str]:
    """The engine's command line; nothing of it depends on the machine but the context's path."""
    options = [word for key, value in sorted(arguments.items()) for word in ("--build-arg", f"{key}={value}")]
    file = str(context / "containers" / f"{request.target}.Containerfile")
    if request.engine == "docker":
        return ["docker", "build", "--network", "host", "--tag", request.tag, "--file", file, *options, str(context)]
    fixed = ["--timestamp", str(request.epoch_s), "--format", "oci", "--layers=false", "--force-rm"]
    here = ["--isolation", "chroot", "--network", "host"]
    return ["buildah", "build", *fixed, *here, "--tag", request.tag, "--file", file, *options, str(context)]


def sandbox_requirements(project: Path) -> str:
    """The lock's lines for what task images get: pytest and what it needs, with every hash."""
    lock = load_lock(project / "uv.lock")
    closure = lock.closure(["dev"])
    wanted, todo = set(), ["pytest"]
    entries = {(e["name"], e.get("version", "")): e for e in lock.raw["package"]}
    while todo:
        name = todo.pop()
        if name not in wanted and name in closure:
            wanted.add(name)
            todo += [d["name"] for d in entries[name, closure[name].version].get("dependencies", ())]
    lines = []
    for name in sorted(wanted):
        hashes = " ".join(f"--hash=sha256:{a.sha256}" for a in closure[name].wheels)
        lines.append(f"{name}=={closure[name].version} {hashes}\n")
    return "".join(lines)


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    else:
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _local_uv(project: Path, engine: str, temporary: Path) -> str:
    """An image that holds this host's uv, in the place where the official one has it."""
    folder = temporary / "uv-image"
    folder.mkdir()
    shutil.copyfile(find_uv(project), folder / "uv")
    (folder / "uv").chmod(0o755)
    (folder / "Containerfile").write_text("FROM scratch\nCOPY uv /uv\n", encoding="utf-8")
    name = "localhost/swerl-uv:host"
    fixed = ["--timestamp", "0", "--isolation", "chroot"] if engine == "buildah" else []
    _run([engine, "build", *fixed, "--tag", name, "--file", str(folder / "Containerfile"), str(folder)], {})
    return name


def _digest(request: Request) -> str:
    inspect = {
        "buildah": ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", request.tag],
        "docker": ["docker", "image", "inspect", "--format", "{{.Id}}", request.tag],
    }[request.engine]
    return _run(inspect, {}).strip()


def _run(command: Sequence[str], environ: dict[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise fail("SWERL-E032", f"`{' '.join(command[:2])}` failed:\n{tail}", "mend what the last lines name", json.dumps(command))
    return done.stdout
