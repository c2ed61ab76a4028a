"""A real Docker engine for the tests: Debian's, started here, in network and mount namespaces of its own, and ended without a trace.

`programs` finds dockerd, docker and compose v2: on this machine, else out of Debian's packages (downloaded with apt, unpacked into a cache
directory, not installed; compose comes from the release after bookworm). `Engine` is one running dockerd with its own data root, socket and
control group. Its base image is made of programs of this machine: there is no registry in reach. With ``tls`` it also listens on 2376,
with ``plain`` on 2375 for everybody; `Engine.forward` shows the port on this host's loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "swerl" / "docker-engine"
ENGINE, COMPOSE = ("docker.io", "containerd", "runc", "tini"), "docker-compose"
IMAGE = "swerl/host"
PROGRAMS = (
    "bash", "sh", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "env", "find", "git", "grep", "head", "id", "kill", "ln", "ls",
    "mkdir", "mv", "ps", "rm", "sed", "seq", "setsid", "sleep", "sort", "stat", "tail", "tar", "test", "timeout",
    "touch", "tr", "true", "wc",
)  # fmt: skip


class Missing(RuntimeError):
    """Why there is no engine here."""


@cache
def programs() -> tuple[Path, Path]:
    """(directory of the engine's programs, directory for DOCKER_CONFIG with the compose plugin). Missing says why there is none."""
    if os.geteuid() != 0:
        raise Missing("a Docker engine needs root")
    for tool in ("apt-get", "dpkg-deb", "unshare", "iptables", "ip"):
        if shutil.which(tool) is None:
            raise Missing(f"a Docker engine needs {tool}, which is not installed")
    bin_dir, config = CACHE / "bin", CACHE / "config"
    plugin = config / "cli-plugins" / "docker-compose"
    try:
        if not (bin_dir / "dockerd").exists():
            with tempfile.TemporaryDirectory() as folder:
                _unpack(_download(Path(folder), ENGINE, []), Path(folder) / "x")
                found = [p for place in ("usr/bin", "usr/sbin") for p in (Path(folder) / "x" / place).iterdir() if not p.is_symlink()]
                _move(found, bin_dir)
        if not (bin_dir / "docker-init").exists():
            (bin_dir / "docker-init").symlink_to("tini-static")  # as the package has it
        if not plugin.exists():
            with tempfile.TemporaryDirectory() as folder:
                _unpack(_download(Path(folder), (COMPOSE,), _later_release(Path(folder))), Path(folder) / "x")
                _move([next((Path(folder) / "x").rglob("cli-plugins/docker-compose"))], plugin.parent)
    except (subprocess.CalledProcessError, OSError, StopIteration) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise Missing(f"Debian's packages {', '.join((*ENGINE, COMPOSE))} are not in reach: {said.strip()[-300:]}") from error
    return bin_dir, config


def _download(folder: Path, names: tuple[str, ...], options: list[str]) -> Path:
    asked = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *options, "download", *names]
    subprocess.run(asked, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    return folder


def _later_release(folder: Path) -> list[str]:
    """apt options for a private state that knows only the next Debian release (its compose needs nothing newer than our libc)."""
    uri = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True).stdout.split()
    debian = next(line for line in uri if "debian" in line and "security" not in line)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "a.sources").write_text(f"Types: deb\nURIs: {debian}\nSuites: trixie\nComponents: main\nSigned-By: {keys}\n")
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    pairs = {
        "Dir::Etc::sourcelist": folder / "a.sources", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists", "Dir::Cache": folder / "cache", "APT::Sandbox::User": "root",
    }  # fmt: skip
    options = [part for name, value in pairs.items() for part in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", "-q", *options, "update"], check=True, capture_output=True, text=True, timeout=300)
    return options


def _unpack(folder: Path, into: Path) -> None:
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, into], check=True, capture_output=True, text=True)


def _move(files: list[Path], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for file in sorted(files, key=lambda path: path.name == "dockerd"):  # whose presence says that all are there
        shutil.move(file, into / file.name)


def base_image(path: Path) -> Path:
    """A root filesystem as a tar file: some programs of this machine, the libraries they load, and what an image has in /etc."""
    files: set[Path] = set()
    for name in PROGRAMS:
        if (found := shutil.which(name)) is None:
            continue
        files.add(Path(found))
        loaded = subprocess.run(["ldd", found], capture_output=True, text=True).stdout.split()
        files |= {Path(word) for word in loaded if word.startswith("/")}
    with tarfile.open(path, "w") as tar, tempfile.TemporaryDirectory() as folder:
        etc = Path(folder)
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/sh\n")
        (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
        tar.add(etc, "etc")
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name in ("root", "app", "usr/bin"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        (etc / "tmp").mkdir(mode=0o777)
        (etc / "tmp").chmod(0o1777)
        tar.add(etc / "tmp", "tmp")
        for file in sorted(files):
            name = str(file).lstrip("/")
            tar.add(file.resolve(), name if name.startswith("usr/") else f"usr/{name}")
    return path


class Engine:
    """One dockerd. ``environment`` is what a client needs to reach it; `stop` (or the end of the ``with``) leaves nothing."""

    def __init__(self, place: Path, tls: Path | None = None, plain: bool = False):
        bin_dir, config = programs()
        self.place, self.tls, self.plain = place, tls, plain
        self.environment = {
            "PATH": f"{bin_dir}:{os.environ['PATH']}", "DOCKER_HOST": f"unix://{place}/sock", "DOCKER_CONFIG": str(config),
        }  # fmt: skip
        self._group = f"swerl-kit-{os.getpid()}-{id(self):x}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Engine:
        self.place.mkdir(parents=True, exist_ok=True)
        names = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        options = [part for option, name in names.items() for part in (option, f"{self.place}/{name}")]
        options += ["--host", self.environment["DOCKER_HOST"], "--bip", "172.31.250.1/24", "--cgroup-parent", f"/{self._group}"]
        if self.tls is not None:
            keys = ("--tlscacert", "ca.pem"), ("--tlscert", "server.pem"), ("--tlskey", "server-key.pem")
            options += ["--tlsverify", "--host", "tcp://127.0.0.1:2376", *(part for o, name in keys for part in (o, f"{self.tls}/{name}"))]
        options += ["--host", "tcp://127.0.0.1:2375", "--tls=false"] if self.plain else []
        script = 'mount --make-rprivate / && ip link set lo up && exec dockerd "$@"'
        command = ["unshare", "--net", "--mount", "sh", "-c", script, "dockerd", *options]
        environment = {**os.environ, **self.environment}
        with (self.place / "log").open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 60
        while self.docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > until:
                log_text = (self.place / "log").read_text()[-2000:]
                self.stop()
                raise Missing(f"dockerd does not start here: {log_text}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.docker("ps", "-aq", check=False)
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # containerd and its shims, if dockerd did not end them
        self._process.wait()
        for group in [*Path("/sys/fs/cgroup").glob(f"*/{self._group}"), Path("/sys/fs/cgroup") / self._group]:
            for below in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)) if group.is_dir() else []:
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        environment = {**others, **self.environment}
        return subprocess.run(["docker", *arguments], env=environment, check=check, capture_output=True, text=True, timeout=120)

    def load_base(self, name: str = IMAGE) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.docker("import", "--change", "WORKDIR /app", str(base_image(Path(folder) / "base.tar")), name)

    def left(self) -> list[str]:
        """Containers, networks of others than the engine, and volumes that there are."""
        networks = self.docker("network", "ls", "--filter", "type=custom", "--format", "network {{.Name}}").stdout.splitlines()
        containers = self.docker("ps", "--all", "--format", "container {{.Names}}").stdout.splitlines()
        return [*containers, *networks, *self.docker("volume", "ls", "--format", "volume {{.Name}}").stdout.splitlines()]

    @contextlib.contextmanager
    def forward(self, port: int = 2376) -> Iterator[int]:
        """The engine's port on this host's loopback, where another host's would be on the network."""
        assert self._process is not None
        namespace = f"/proc/{self._process.pid}/ns/net"
        with socket.create_server(("127.0.0.1", port)) as listener:
            threading.Thread(target=_serve, args=(listener, namespace, port), daemon=True).start()
            yield port
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, namespace: str, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_carry, args=(near, namespace, port), daemon=True).start()


def _carry(near: socket.socket, namespace: str, port: int) -> None:
    with Path(namespace).open() as file:
        os.setns(file.fileno(), os.CLONE_NEWNET)  # this thread alone, which ends with the connection
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=_pipe, args=(far, near), daemon=True)
        back.start()
        _pipe(near, far)
        back.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def certificates(place: Path) -> Path:
    """An authority of our own, a server's certificate for 127.0.0.1 and a client's (``ca.pem``, ``cert.pem``, ``key.pem``)."""
    place.mkdir(parents=True)
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*run, "-subj", "/CN=kit", "-keyout", place / "ca-key.pem", "-out", place / "ca.pem"], check=True, capture_output=True)
    for name, use in (("server", "serverAuth"), ("client", "clientAuth")):
        key, request, made = (place / f"{name}{end}" for end in ("-key.pem", ".csr", ".pem"))
        new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request]
        subprocess.run(new, check=True, capture_output=True)
        (place / "extensions").write_text(f"extendedKeyUsage={use}\nsubjectAltName=IP:127.0.0.1\n")
        signing = ["openssl", "x509", "-req", "-in", request, "-CA", place / "ca.pem", "-CAkey", place / "ca-key.pem", "-CAcreateserial"]
        subprocess.run([*signing, "-days", "2", "-extfile", place / "extensions", "-out", made], check=True, capture_output=True)
    (place / "client.pem").rename(place / "cert.pem")
    (place / "client-key.pem").rename(place / "key.pem")
    (place / "key.pem").chmod(0o600)
    return place
