"""The system call filter of the bubblewrap sandbox, as a classic BPF program built from a table.

`program(arch)` returns the bytes that `bwrap --seccomp FD` reads: an array of `struct sock_filter` (8 bytes each, native endianness).
Refused calls return EPERM (the agent sees "Operation not permitted", nothing is killed); `clone3` returns ENOSYS so that libc falls back
to `clone`, whose flags a filter can read. Any other architecture than the one named (x32 and 32-bit entry included) is killed.
Layout of the data the program sees: `struct seccomp_data` {int nr; u32 arch; u64 ip; u64 args[6]} (linux/seccomp.h).
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

# Opcodes (linux/bpf_common.h): load word absolute, jump equal, jump any bit set, jump greater or equal, return.
_LD, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets; the low word of a 64-bit argument comes first on both supported machines

# Flags that make clone(2) open a new namespace: NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACE_FLAGS = 0x00000080 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# Terminal ioctls that type into another session's terminal or reach the console.
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
# UNIX, INET, INET6, NETLINK. Network namespaces do not cover VSOCK, so only named families pass.
SOCKET_FAMILIES = (1, 2, 10, 16)


@dataclass(frozen=True, slots=True)
class Machine:
    """One architecture: its audit number, the calls refused by name, and the four whose arguments are read."""

    audit_arch: int
    denied: dict[str, int]
    clone: int
    clone3: int
    socket: int
    ioctl: int
    prlimit: int
    x32_bit: int | None


_X86_64_DENIED = {
    "ptrace": 101, "syslog": 103, "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212, "clock_settime": 227,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "move_pages": 279, "unshare": 272, "perf_event_open": 298,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "memfd_secret": 447, "modify_ldt": 154, "vhangup": 153, "_sysctl": 156, "nfsservctl": 180, "open_tree_attr": 467,
}  # fmt: skip
_AARCH64_DENIED = {
    "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89, "unshare": 97,
    "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142,
    "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "add_key": 217, "request_key": 218, "keyctl": 219,
    "swapon": 224, "swapoff": 225, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
    "finit_module": 273, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "lookup_dcookie": 18,
    "open_tree_attr": 467,
}  # fmt: skip

MACHINES = {
    "x86_64": Machine(0xC000003E, _X86_64_DENIED, clone=56, clone3=435, socket=41, ioctl=16, prlimit=302, x32_bit=0x40000000),
    "aarch64": Machine(0xC00000B7, _AARCH64_DENIED, clone=220, clone3=435, socket=198, ioctl=29, prlimit=261, x32_bit=None),
}


class _Assembler:
    """Instructions with named jump targets; classic BPF jumps forward only, by at most 255 instructions."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None, str | None]] = []
        self._labels: dict[str, int] = {}

    def emit(self, op: int, k: int, true: str | None = None, false: str | None = None) -> None:
        self._code.append((op, k, true, false))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def assemble(self) -> bytes:
        out = bytearray()
        for at, (op, k, true, false) in enumerate(self._code):
            jt, jf = (self._labels[name] - at - 1 if name else 0 for name in (true, false))
            if not (0 <= jt <= 255 and 0 <= jf <= 255):
                raise AssertionError(f"jump out of range at instruction {at}")
            out += struct.pack("=HBBI", op, jt, jf, k & 0xFFFFFFFF)
        return bytes(out)


def _errno(number: int) -> int:
    return 0x00050000 | number


def program(arch: str | None = None) -> bytes:
    """The filter for ``arch`` (default: this machine). KeyError when the machine has no table: such a host gets no sandbox."""
    machine = MACHINES[arch or platform.machine()]
    asm = _Assembler()
    asm.emit(_LD, _ARCH)
    asm.emit(_JEQ, machine.audit_arch, None, "kill")
    asm.emit(_LD, _NR)
    if machine.x32_bit is not None:
        asm.emit(_JGE, machine.x32_bit, "kill", None)
    asm.emit(_JEQ, machine.clone, "clone", None)
    asm.emit(_JEQ, machine.clone3, "enosys", None)
    asm.emit(_JEQ, machine.socket, "socket", None)
    asm.emit(_JEQ, machine.ioctl, "ioctl", None)
    asm.emit(_JEQ, machine.prlimit, "prlimit", None)
    for number in sorted(machine.denied.values()):
        asm.emit(_JEQ, number, "deny", None)
    asm.emit(_RET, _ALLOW)
    asm.label("clone")
    asm.emit(_LD, _ARG0)
    asm.emit(_JSET, NAMESPACE_FLAGS, "deny", "allow")
    asm.label("socket")
    asm.emit(_LD, _ARG0)
    for family in SOCKET_FAMILIES:
        asm.emit(_JEQ, family, "allow", None)
    asm.emit(_RET, _errno(errno.EAFNOSUPPORT))
    asm.label("ioctl")
    asm.emit(_LD, _ARG1)
    asm.emit(_JEQ, TIOCSTI, "deny", None)
    asm.emit(_JEQ, TIOCLINUX, "deny", "allow")
    asm.label("prlimit")  # process 1 is ours: a limit of processor time would end it as no signal from inside can
    asm.emit(_LD, _ARG0)
    asm.emit(_JEQ, 1, "deny", "allow")
    asm.label("allow")
    asm.emit(_RET, _ALLOW)
    asm.label("deny")
    asm.emit(_RET, _errno(errno.EPERM))
    asm.label("enosys")
    asm.emit(_RET, _errno(errno.ENOSYS))
    asm.label("kill")
    asm.emit(_RET, _KILL)
    return asm.assemble()
