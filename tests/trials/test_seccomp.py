"""The filter, run in an interpreter of its own language: which calls of which architecture end how."""

import errno
import struct

import pytest

from swerl.trials.sandboxes.seccomp import MACHINES, NAMESPACE_FLAGS, TIOCSTI, program

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def run(code: bytes, nr: int, arch: int, args=(0, 0)) -> int:
    """Classic BPF, as far as the filter uses it."""
    data = struct.pack("=IIQQQ", nr, arch, 0, *args)
    at, accumulator = 0, 0
    while True:
        op, jt, jf, k = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x15:
            at += jt if accumulator == k else jf
        elif op == 0x35:
            at += jt if accumulator >= k else jf
        elif op == 0x45:
            at += jt if accumulator & k else jf
        elif op == 0x06:
            return k
        else:
            raise AssertionError(f"opcode {op:#x}")


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_every_denied_call_is_refused_and_common_ones_pass(name):
    machine, code = MACHINES[name], program(name)
    for number in machine.denied.values():
        assert run(code, number, machine.audit_arch) == ERRNO | errno.EPERM
    assert len(set(machine.denied.values())) == len(machine.denied)
    for number in {0, 1, 2, 59, 57, 61} if name == "x86_64" else {63, 64, 56, 221, 260}:
        assert run(code, number, machine.audit_arch) == ALLOW


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_arguments_are_read(name):
    machine, code = MACHINES[name], program(name)
    assert run(code, machine.clone, machine.audit_arch, (0x01200011, 0)) == ALLOW
    for bit in range(32):
        if NAMESPACE_FLAGS >> bit & 1:
            assert run(code, machine.clone, machine.audit_arch, (1 << bit | 17, 0)) == ERRNO | errno.EPERM
    assert run(code, machine.clone3, machine.audit_arch) == ERRNO | errno.ENOSYS
    for family, allowed in ((1, True), (2, True), (10, True), (16, True), (17, False), (38, False), (40, False)):
        assert (run(code, machine.socket, machine.audit_arch, (family, 0)) == ALLOW) is allowed
    assert run(code, machine.ioctl, machine.audit_arch, (0, TIOCSTI)) == ERRNO | errno.EPERM
    assert run(code, machine.ioctl, machine.audit_arch, (0, 0x5401)) == ALLOW


def test_other_architectures_are_killed():
    x86, arm = MACHINES["x86_64"], MACHINES["aarch64"]
    assert run(program("x86_64"), 1, 0x40000003) == KILL  # 32-bit entry
    assert run(program("x86_64"), 0x40000000 | 1, x86.audit_arch) == KILL  # x32
    assert run(program("aarch64"), 1, x86.audit_arch) == KILL
    assert run(program("x86_64"), 1, arm.audit_arch) == KILL


def test_an_unknown_machine_gets_no_filter():
    with pytest.raises(KeyError):
        program("vax")
