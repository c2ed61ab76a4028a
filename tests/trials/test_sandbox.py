"""A real bubblewrap sandbox: what commands see, what they may not do, what holds when they misbehave."""

import asyncio
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from swerl.trials.sandboxes import limits
from swerl.trials.sandboxes.launch import start
from swerl.trials.sandboxes.received import Bounds
from swerl.trials.sandboxes.relay import Relay
from swerl.trials.sandboxes.spec import DEFAULT_PATH, Limits, SandboxSpec
from swerl.trials.sandboxes.wire import SandboxDied, SandboxRefused

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": DEFAULT_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
SMALL = Limits(processes=64, file_mb=8, disk_mb=16, inodes=2000, memory_mb=256)


def inside(body, spec=SandboxSpec(limits=SMALL)):  # noqa: B008
    async def main():
        sandbox = await start(spec, "test-sandbox", f"t{os.getpid()}")

        async def sh(command, timeout_s=20.0, cwd="/", kept=1 << 20):
            done = await sandbox.channel.run(command, cwd, ENV, timeout_s, kept)
            return done.code, done.stdout.decode(), done.stderr.decode()

        try:
            return await body(sandbox, sh)
        finally:
            await sandbox.stop()

    return asyncio.run(main())


def test_no_rights_and_no_host():
    async def body(sandbox, sh):
        _, status, _ = await sh("cat /proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0
        assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
        assert (await sh("id -u"))[1] == "0\n"
        _, listed, _ = await sh("ls -a /home /root /work /mnt /srv /boot /sys 2>/dev/null; ls /")
        assert set(listed.split()) <= {"/root:", ".", ".."} | {
            "bin",
            "dev",
            "etc",
            "lib",
            "lib32",
            "lib64",
            "libx32",
            "nix",
            "proc",
            "root",
            "run",
            "sbin",
            "tmp",
            "usr",
            "var",
        }
        for secret in ("/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/ssl/private", "/etc/sudoers", "/var/lib"):
            assert (await sh(f"test -e {secret}"))[0] == 1
        _, environment, _ = await sh("env; tr '\\0' '\\n' < /proc/self/environ")
        assert {line.split("=")[0] for line in environment.splitlines()} <= {"PATH", "HOME", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}
        assert "No such file" in (await sh("cat /etc/hostname"))[2] and (await sh("hostname"))[1] == "sandbox\n"

    inside(body)


@pytest.mark.parametrize(
    "command",
    [
        "unshare -Ur true",
        "unshare -m true",
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "mknod /tmp/disk b 8 0",
        "chroot / true",
        "python3 -c 'import os; os.setuid(1)'",
        "nsenter -t 1 -m true",
        "cat /proc/1/environ",
        "head -c 1 /proc/1/mem",
        "ls -l /proc/1/fd/",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /usr/bin/x",
        "echo x > /etc/passwd",
        "echo x > /dev/x",
        "dmesg",
        "python3 -c 'import socket; socket.socket(40, 1)'",
        "python3 -c 'import ctypes; c=ctypes.CDLL(None, use_errno=True); exit(0 if c.ptrace(0,0,0,0) == 0 else 1)'",
        "python3 -c 'import ctypes; c=ctypes.CDLL(None); exit(0 if c.syscall(250, 0, 0, 0) >= 0 else 1)'",
        "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'",
    ],
)
def test_refused(command):
    async def body(_, sh):
        return await sh(command)

    code, _, said = inside(body)
    assert code != 0, said


def test_process_1_cannot_be_killed_and_is_nobody_on_the_host():
    async def body(sandbox, sh):
        for signal in ("KILL", "TERM", "STOP", "HUP", "SEGV"):
            await sh(f"kill -{signal} 1; kill -{signal} -1", timeout_s=2)
        assert (await sh("echo alive"))[1] == "alive\n"
        if os.geteuid() == 0:
            assert Path(f"/proc/{sandbox.pid}").stat().st_uid in (0, sandbox.uid)  # not dumpable: shown as root's
            status = Path(f"/proc/{sandbox.pid}/status").read_text()
            assert f"Uid:\t{sandbox.uid}\t{sandbox.uid}" in status and sandbox.uid > 1_000_000_000

    inside(body)


def test_output_timeout_and_cancellation():
    async def body(sandbox, sh):
        assert await sh("printf out; printf err >&2; exit 7") == (7, "out", "err")
        assert (await sh("kill -9 $$"))[0] == 137
        done = await sandbox.channel.run("printf begun; sleep 60 & sleep 60", "/", ENV, 0.3, 100)
        assert done.timed_out and done.stdout == b"begun"
        assert (await sh("pgrep -c sleep"))[1] == "0\n"  # the whole group went
        done = await sandbox.channel.run("head -c 100000 /dev/zero", "/", ENV, 10, 1000)
        assert len(done.stdout) == 1000 and done.truncated and done.code == 0
        task = asyncio.create_task(sh("sleep 61"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert (await sh("pgrep -f 'sleep 61' -c"))[1].strip() in ("0", "1")  # at most the shell that looks
        assert (await sh("cd /nowhere", cwd="/"))[0] == 1
        assert (await sh("true", cwd="/nowhere"))[0] == 126

    inside(body)


def test_a_background_process_does_not_hold_a_command_up():
    async def body(sandbox, sh):
        code, text, _ = await asyncio.wait_for(sh("sleep 30 & sleep 0.3; echo started"), 5)
        assert (code, text) == (0, "started\n")
        assert (await sandbox.channel.quiesce()) == ["sleep 30"]

    inside(body)


def test_quiesce_ends_daemons_and_fork_bombs():
    async def body(sandbox, sh):
        await sh("setsid nohup sleep 99 >/dev/null 2>&1 & disown; (:(){ :|:& };:) 2>/dev/null; sleep 0.5", timeout_s=3)
        assert len(await sandbox.channel.quiesce()) >= 2
        code, text, _ = await sh("ls /proc | grep -c '^[0-9]*$'")
        assert code == 0 and int(text) <= 4

    inside(body)


def test_limits_hold():
    async def body(sandbox, sh):
        assert "File size limit exceeded" in (await sh("head -c 20000000 /dev/zero > /tmp/big"))[2]
        assert "No space" in (await sh("for i in 1 2 3 4; do head -c 7000000 /dev/zero > /tmp/f$i; done; rm /tmp/f*"))[2]
        assert "No space" in (await sh("head -c 20000000 /dev/zero | split -b 4M - /dev/shm/f; rm -f /dev/shm/f*"))[2]
        assert "Resource temporarily unavailable" in (await sh("for i in $(seq 100); do sleep 5 & done", timeout_s=30))[2]
        await sandbox.channel.quiesce()
        if os.geteuid() == 0:
            assert "No space" in (await sh("mkdir /tmp/i; for i in $(seq 3000); do : > /tmp/i/$i || break; done"))[2]
        if not limits.missing():
            assert (await sh("python3 -c 'x = bytearray(400 << 20); print(len(x))'", timeout_s=60))[0] == 137
            assert sandbox.out_of_memory() and sandbox.alive

    inside(body)


def test_files_go_in_and_out(tmp_path):
    async def body(sandbox, sh):
        source = tmp_path / "in"
        (source / "d").mkdir(parents=True)
        (source / "d" / "f").write_bytes(os.urandom(3_000_000))
        (source / "run").write_text("#!/bin/sh\necho ran\n")
        (source / "run").chmod(0o755)
        (source / "l").symlink_to("d/f")
        await sandbox.channel.upload(source, "/app/sub")
        assert (await sh("/app/sub/run && readlink /app/sub/l && stat -c %a /app/sub/run"))[1] == "ran\nd/f\n755\n"
        got = await sandbox.channel.download("/app/sub", tmp_path / "out", single=False, bounds=Bounds())
        assert (tmp_path / "out" / "d" / "f").read_bytes() == (source / "d" / "f").read_bytes()
        assert got.links == (("l", "d/f"),) and not os.path.lexists(tmp_path / "out" / "l")
        await sandbox.channel.download("/app/sub/run", tmp_path / "one" / "name", single=True, bounds=Bounds())
        assert (tmp_path / "one" / "name").read_text() == "#!/bin/sh\necho ran\n"
        with pytest.raises(SandboxRefused, match="more than 1000 bytes"):
            await sandbox.channel.download("/app/sub/d/f", tmp_path / "no", single=True, bounds=Bounds(total_bytes=1000))
        with pytest.raises(SandboxRefused, match="No such file"):
            await sandbox.channel.download("/nowhere", tmp_path / "no", single=False, bounds=Bounds())
        assert [await sandbox.channel.kind(path) for path in ("/app", "/app/sub/l", "/app/x")] == ["d", "f", ""]
        with pytest.raises(SandboxRefused, match="No space"):
            big = tmp_path / "big"
            big.mkdir()
            for number in range(4):
                (big / str(number)).write_bytes(bytes(7 << 20))
            await sandbox.channel.upload(big, "/app/big")

    inside(body)


def test_an_upload_is_not_led_astray_by_links(tmp_path):
    async def body(sandbox, sh):
        source = tmp_path / "in"
        (source / "d").mkdir(parents=True)
        (source / "d" / "f").write_text("new")
        (source / "g").write_text("new")
        await sh("mkdir -p /app /trap; echo old > /trap/f; echo old > /trap/g; ln -s /trap /app/d; ln -s /trap/g /app/g")
        await sandbox.channel.upload(source, "/app")
        assert (await sh("cat /trap/f /trap/g; cat /app/d/f /app/g"))[1] == "old\nold\nnewnew"

    inside(body)


def test_wipe_makes_a_real_empty_directory_whatever_was_planted():
    async def body(sandbox, sh):
        await sh("mkdir -p /trap/x; ln -s /trap /tests; mkdir /logs; ln -s /trap /logs/verifier; touch /solution")
        await sandbox.channel.wipe("/tests", "/logs/verifier", "/solution", "/a/b")
        _, listed, _ = await sh("stat -c '%F %a' /tests /logs/verifier /solution /a/b; ls -A /tests /trap")
        assert listed == "directory 777\n" * 4 + "/tests:\n\n/trap:\nx\n"
        await sh("cd /tests; python3 -c 'import os; [(os.mkdir(str(1)), os.chdir(str(1))) for _ in range(1500)]'")
        await sandbox.channel.wipe("/tests")
        assert (await sh("ls -A /tests"))[1] == ""
        await sh("rm -rf /logs; ln -s /trap /logs")
        await sandbox.channel.wipe("/logs/verifier")
        assert (await sh("ls -A /trap"))[1] == "x\n"

    inside(body)


def test_what_is_over_a_bound_is_left_out_of_logs_and_ends_the_taking_of_an_answer(tmp_path):
    """Files come before directories, so that no subtree hides the results that lie beside it."""

    async def body(sandbox, sh):
        await sandbox.channel.make_dirs("/logs/a")
        await sandbox.channel.baseline("/logs")
        await sh("cd /logs; seq 300 > z; truncate -s 5G giant; cd a; touch $(seq 300); mkdir -p b/c/d; touch b/f b/c/d/deep")
        got = await sandbox.channel.download("/logs", tmp_path / "cut", single=False, bounds=Bounds(total_bytes=1 << 20, depth=2))
        assert (tmp_path / "cut" / "z").read_text().startswith("1\n2\n") and "giant" in got.left_out and "and more" in got.left_out
        assert len(list((tmp_path / "cut" / "a").iterdir())) < 256
        got = await sandbox.channel.download("/logs", tmp_path / "shallow", single=False, bounds=Bounds(depth=2))
        assert set(got.left_out) == {"giant", "a/b/c"} and (tmp_path / "shallow" / "a" / "b").is_dir()
        assert (tmp_path / "shallow" / "a" / "b" / "f").is_file() and not (tmp_path / "shallow" / "a" / "b" / "c").exists()
        for bounds, said in (
            (Bounds(total_bytes=1 << 20), "more than 1048576 bytes"),
            (Bounds(), "more than 67108864 bytes"),
            (Bounds(6 << 30, 6 << 30, depth=2), "2 directories"),
        ):
            with pytest.raises(SandboxRefused, match=said):
                await sandbox.channel.changes("/logs", tmp_path / "no", bounds)

    inside(body, SandboxSpec(limits=replace(SMALL, file_mb=0)))


def test_closed_modes_and_odd_names_are_no_way_to_hide(tmp_path):
    """All that an agent makes is its own, process 1's too, however it is closed; names are bytes."""

    async def body(sandbox, sh):
        await sandbox.channel.make_dirs("/app")
        await sandbox.channel.baseline("/app")
        await sh(
            "cd /app; mkdir -p shut/in; echo 1 > shut/in/f; chmod 000 shut/in/f shut/in shut; echo 2 > file; chmod 000 file;"
            " mkdir listed; echo 3 > listed/f; chmod 400 listed; touch $'a\\xff.txt' $'b\\nc' \"'\"; ln -s $'\\xff' odd; chmod 000 /app /"
        )
        got = await sandbox.channel.changes("/app", tmp_path / "out", Bounds())
        assert {name: (tmp_path / "out" / name).read_text() for name in ("shut/in/f", "file", "listed/f")} == {
            "shut/in/f": "1\n",
            "file": "2\n",
            "listed/f": "3\n",
        }
        assert {"a\udcff.txt", "b\nc", "'"} <= set(got.written) and got.links == (("odd", "\udcff"),) and got.left_out == ()

    inside(body)


def test_changes_since_the_baseline(tmp_path):
    async def body(sandbox, sh):
        await sh("mkdir -p /app/pkg /app/.git /app/old; cd /app; for f in same edited removed old/f; do echo 1 > $f; done; ln -s same link")
        await sandbox.channel.baseline("/app")
        await sh(
            "cd /app; echo 2 > edited; touch -d '2000-01-01' edited; rm removed; rm -r old; mkdir -p new/deep; echo 1 > new/deep/f;"
            " ln -sf edited link; echo x > .git/config; mkfifo pipe; chmod +x same; ln -s /etc/passwd out"
        )
        got = await sandbox.channel.changes("/app", tmp_path / "out", Bounds())
        assert set(got.written) == {"edited", "new", "new/deep", "new/deep/f", "link", "same"}
        assert set(got.known) == {"edited", "link", "same"}
        assert set(got.gone) == {"removed", "old", "old/f"} and got.links == (("link", "edited"),)
        assert got.refused == ("out -> /etc/passwd",)
        assert (tmp_path / "out" / "edited").read_text() == "2\n"
        await sandbox.channel.remove("/app", ["new/deep", "link", "not/there"])
        assert (await sh("cd /app; ls -A new; test -e same && test ! -e link"))[:2] == (0, "")

    inside(body)


def test_it_ends_with_its_socket_and_waiters_are_told():
    async def body(sandbox, sh):
        waiting = asyncio.create_task(sh("sleep 60"))
        await asyncio.sleep(0.2)
        os.kill(sandbox.pid, 9)
        with pytest.raises(SandboxDied):
            await waiting
        with pytest.raises(SandboxDied):
            await sh("true")
        assert not sandbox.alive and await sandbox.killed_from_outside() == (not limits.missing())

    inside(body)


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP", "USR1", "SEGV", "XCPU", "RTMIN", "KILL", "STOP"])
def test_no_signal_from_inside_ends_process_1(number):
    async def body(sandbox, sh):
        await sh(f"kill -{number} 1; python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_CPU, (0, 0))'; sleep 0.1")
        assert (await sh("kill -INT $$; echo alive"))[0] == 130  # and a command's own signals are as usual
        assert (await sh("echo alive"))[1] == "alive\n"

    inside(body)


def test_nothing_is_left_after_stop():
    kept = {}

    async def body(sandbox, sh):
        kept["pid"], kept["groups"] = sandbox.pid, sandbox.group.paths
        await sh("setsid sleep 60 & disown")

    inside(body)
    assert not Path(f"/proc/{kept['pid']}").exists()
    assert not any(path.exists() for path in kept["groups"])


def test_the_gateway_is_the_only_thing_reached():
    served = []

    async def body(sandbox, sh):
        async def answer(reader, writer):
            served.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nfrom the gateway")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        relay = Relay(sandbox.listener, "127.0.0.1", server.sockets[0].getsockname()[1])
        await relay.start()
        get = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8002/v1/models\", timeout=5).read().decode())'"
        assert (await sh(get))[1] == "from the gateway\n"
        _, interfaces, _ = await sh("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")
        assert interfaces == "lo\n"
        other = socket.create_server(("127.0.0.1", 0))
        assert (await sh(f"exec 3<>/dev/tcp/127.0.0.1/{other.getsockname()[1]}"))[0] != 0
        other.close()
        await sandbox.channel.quiesce()
        assert (await sh(get))[1] == "from the gateway\n"
        await relay.close()
        assert (await sh(get))[0] != 0
        server.close()

    inside(body, SandboxSpec(network="gateway", gateway_port=8002, limits=SMALL))
    assert len(served) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="an overlay of a root filesystem needs root; the refusal is tested below")
def test_a_root_filesystem_directory(tmp_path):
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    tmp_path.chmod(0o755)
    os.system(f"cp -a --parents /usr/bin/python3* /usr/bin/bash /usr/bin/cat /usr/bin/ls /usr/bin/touch /usr/bin/id {rootfs} 2>/dev/null")
    os.system(
        f"cp -a --parents /usr/lib/python3* /usr/lib/x86_64-linux-gnu/lib* /usr/lib64 /usr/lib/x86_64-linux-gnu/ld* {rootfs} 2>/dev/null"
    )
    for link, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
        (rootfs / link).symlink_to(target)
    for name in ("etc", "proc", "dev", "tmp", "testbed"):
        (rootfs / name).mkdir()
    (rootfs / "testbed" / "f").write_text("from the image\n")

    async def body(sandbox, sh):
        assert (await sh("cat /testbed/f; echo mine > /testbed/f; touch /usr/bin/new; cat /testbed/f; id -u"))[:2] == (
            0,
            "from the image\nmine\n0\n",
        )

    work = Path("/var/tmp") / f"swerl-test-{os.getpid()}"
    inside(body, SandboxSpec(rootfs=rootfs, work_dir=work, limits=SMALL))
    assert (rootfs / "testbed" / "f").read_text() == "from the image\n" and not (rootfs / "usr" / "bin" / "new").exists()
    assert str(work) not in Path("/proc/self/mountinfo").read_text()
    (work / "test-sandbox").rmdir()
    work.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests of this file already run without root")
def test_without_root(tmp_path):
    """The same sandbox started by an ordinary user: what then is missing is named, the rest holds."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    shutil.copytree(ROOT / "swerl" / "trials" / "sandboxes", tmp_path / "swerl" / "trials" / "sandboxes")
    for name in ("errors.py", "__init__.py", "trials/__init__.py"):
        shutil.copyfile(ROOT / "swerl" / name, tmp_path / "swerl" / name)
    code = """
import asyncio
from swerl.trials.sandboxes import limits
from swerl.trials.sandboxes.launch import start
from swerl.trials.sandboxes.spec import Limits, SandboxSpec

async def main():
    sandbox = await start(SandboxSpec(limits=Limits(processes=40, disk_mb=8, memory_mb=200)), "test-plain", "t")
    async def sh(command):
        done = await sandbox.channel.run(command, "/", {"PATH": "/usr/bin:/bin"}, 30, 4000)
        print((done.stdout + done.stderr).decode().strip().splitlines()[-1:])
    await sh("grep CapEff /proc/self/status")
    await sh("id -u")
    await sh("unshare -Ur true")
    await sh("for i in $(seq 60); do sleep 5 & done; wait")
    await sh("head -c 9000000 /dev/zero > /tmp/f")
    await sh("python3 -c 'bytearray(300 << 20)'")
    await sandbox.stop()
    print(len(limits.missing()))

asyncio.run(main())
"""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path), "PATH": DEFAULT_PATH}, cwd="/", capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    for line, words in zip(said, ("0000000000000000", "0", "not permitted", "fork:", "No space", "MemoryError", "3"), strict=True):
        assert words in line
