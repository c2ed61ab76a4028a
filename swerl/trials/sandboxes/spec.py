"""What a sandbox is to be, before any process exists. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swerl.errors import fail

Network = Literal["none", "gateway", "public"]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a sandbox without a root filesystem of its own sees of the host: programs, libraries, and the parts of /etc that are about those.
# Directories of /etc are mounted; its files are copied in, because every mount costs each later mount of the start a little.
HOST_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
HOST_ETC_DIRS = ("alternatives", "ld.so.conf.d", "java", "pki", "ssl/certs")
HOST_ETC_FILES = (
    "debian_version", "ld.so.cache", "ld.so.conf", "localtime", "mime.types", "nsswitch.conf", "protocols", "services", "ssl/openssl.cnf",
)  # fmt: skip
PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one sandbox. Zero means no ceiling of ours."""

    processes: int = 512
    file_mb: int = 1024
    files: int = 4096
    disk_mb: int = 1024
    inodes: int = 200_000
    memory_mb: int = 2048
    cpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host that the sandbox sees. Files keep their host owners; the sandbox's root is an ordinary user to them."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox: its root filesystem, what it may reach, how much it may use.

    ``rootfs`` None is the host's own /usr, read-only; a directory is the lower layer of a private overlay, mounted below ``work_dir``.
    ``gateway_port`` is the port on 127.0.0.1 at which a sandbox with network "gateway" finds the gateway.
    """

    network: Network = "none"
    rootfs: Path | None = None
    work_dir: Path = Path("/run/swerl")
    limits: Limits = Limits()
    gateway_port: int = 0
    mounts: tuple[Mount, ...] = ()

    def __post_init__(self) -> None:
        if self.network not in ("none", "gateway", "public"):
            raise fail(
                "SWERL-T010", f"unknown sandbox network {self.network!r}", "set harbor_runtime.sandbox.network to none, gateway or public"
            )
        if self.network == "gateway" and not self.gateway_port:
            raise AssertionError('network "gateway" needs the port at which the gateway appears')
