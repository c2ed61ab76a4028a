"""A private, writable view of a root filesystem directory: an overlay whose upper layer is a tmpfs of the sandbox's size. Host root only.

Files that belong to root in the directory belong to root inside the sandbox: the lower layer is an id-mapped mount (on-disk 0 becomes the
sandbox's host user). Mounts are made below <work dir>/<run tag>/<sandbox>, which is how the reaper finds what a killed runner left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swerl.errors import fail
from swerl.trials.sandboxes.spec import Limits

_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_CLONE, _CLOEXEC, _FROM_EMPTY, _IDMAP = 1, 0o2000000, 4, 0x00100000


@dataclass(frozen=True, slots=True)
class Overlay:
    base: Path

    @property
    def merged(self) -> Path:
        return self.base / "merged"

    def unmount(self) -> None:
        """Remove the mounts and their directories; what is gone already is fine."""
        for name in ("merged", "lower", "rw"):
            unmount(self.base / name)
            with contextlib.suppress(FileNotFoundError):
                (self.base / name).rmdir()
        with contextlib.suppress(FileNotFoundError):
            self.base.rmdir()


def mount_overlay(rootfs: Path, base: Path, uid: int, limits: Limits) -> Overlay:
    """OSError when the kernel refuses; SwerlError when the runner is not root."""
    if os.geteuid() != 0:
        raise fail(
            "SWERL-T013",
            "a root filesystem directory needs an overlay mount, and the runner is not root",
            "run as root or leave rootfs empty",
        )
    if not rootfs.is_dir():
        raise fail("SWERL-T014", f"no root filesystem at {rootfs}", "set harbor_runtime.sandbox.rootfs to a directory, or leave it empty")
    overlay = Overlay(base)
    base.mkdir(mode=0o711, parents=True, exist_ok=True)
    for directory in base.parents:
        if not directory.stat().st_mode & 0o001:
            base.rmdir()
            raise fail(
                "SWERL-T015",
                f"the sandbox's user cannot reach {base}: {directory} is closed to others",
                "set harbor_runtime.sandbox.work_dir to a directory below one that others may enter, such as /var/tmp",
            )
    try:
        rw, lower = overlay.base / "rw", overlay.base / "lower"
        for directory in (rw, lower, overlay.merged):
            directory.mkdir(exist_ok=True)
        options = f"mode=0755,uid={uid},gid={uid},size={limits.disk_mb}m" + (f",nr_inodes={limits.inodes}" if limits.inodes else "")
        _mount("tmpfs", rw, "tmpfs", options)
        for part in ("upper", "work"):
            (rw / part).mkdir()
            os.chown(rw / part, uid, uid)
        _mount_as(rootfs, lower, uid)
        _mount("overlay", overlay.merged, "overlay", f"lowerdir={lower},upperdir={rw}/upper,workdir={rw}/work,userxattr")
    except BaseException:
        overlay.unmount()
        raise
    return overlay


def unmount(path: Path) -> None:
    """Detach whatever is mounted at ``path``, also in layers; not being a mount point is fine."""
    while _libc().umount2(os.fsencode(path), _MNT_DETACH) == 0:
        continue


def _mount(source: str, target: Path, kind: str, options: str) -> None:
    if _libc().mount(source.encode(), os.fsencode(target), kind.encode(), _MS_NOSUID | _MS_NODEV, options.encode()) != 0:
        _raise(f"mount {kind} at {target}")


def _mount_as(source: Path, target: Path, uid: int) -> None:
    """Attach ``source`` at ``target`` with its root's files shown as ``uid``'s."""
    tree = _syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _CLONE | _CLOEXEC | _AT_RECURSIVE)
    try:
        with _user_namespace(uid) as namespace:
            attributes = struct.pack("=QQQQ", _IDMAP, 0, 0, namespace)
            _syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, len(attributes))
        _syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _FROM_EMPTY)
    finally:
        os.close(tree)


@contextlib.contextmanager
def _user_namespace(uid: int):
    """A descriptor of a user namespace that maps its 0 to the host's ``uid``; a short-lived process holds it open until then."""
    holder = subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {uid} 1\n")
        fd = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        holder.kill()
        holder.communicate()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(*arguments: object) -> int:
    result = _libc().syscall(*arguments)
    if result < 0:
        _raise(f"system call {arguments[0]}")
    return result


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
