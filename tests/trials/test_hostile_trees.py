"""Generated trees that an agent could leave, taken out of a real sandbox and out of archives as an engine or a pod sends them.

Whatever is in them: nothing outside is read, created or changed, only directories and files of ours are left, and it ends soon.
"""

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import shlex
import stat
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.trials.sandboxes import received as reading
from swerl.trials.sandboxes import tree
from swerl.trials.sandboxes.launch import start
from swerl.trials.sandboxes.received import Bounds, Received
from swerl.trials.sandboxes.spec import DEFAULT_PATH, Limits, SandboxSpec
from swerl.trials.sandboxes.tree import UnsafeEntry, unpack
from swerl.trials.sandboxes.wire import SandboxRefused

ENV = {"PATH": DEFAULT_PATH}
SMALL = Bounds(total_bytes=4 << 20, file_bytes=1 << 20, entries=400, depth=12, name_bytes=300, links=50)
SECRET = b"a file of the host"
SOON_S = 20.0  # a tree of some hundred entries takes a hundredth of it

names = st.sampled_from(
    [b"a", b"b", b"c", b"conftest.py", b"\xff\xfe", b"new\nline", b"'", b"$(id)", b"-rf", b"\x1b[2J", b"x" * 255, "é".encode()]
)
inner = st.lists(names, min_size=1, max_size=5).map(b"/".join)


def hostile(outside: str) -> st.SearchStrategy[dict[str, object]]:
    """One thing of a tree: what it is, where, and (links) where to, (files) how large, (modes) which. A link's target may be a chain that
    goes down through other links of the tree and up again to the host's root."""
    up = st.integers(1, 60).map(lambda n: b"../" * n)
    chains = st.tuples(inner, up, st.sampled_from([outside.encode(), b"", b"proc/self/mem"])).map(
        lambda t: t[0] + b"/" + t[1] + t[2].lstrip(b"/")
    )
    absolute = st.sampled_from(
        [f"{outside}/{name}".encode() for name in ("file", "dir", "pipe", "new")] + [b"/", b"/dev/zero", b"/proc/kmsg"]
    )
    target = st.one_of(chains, absolute, inner, up, st.just(b"."), st.just(b"\xff/../.."), st.just(b"x/" * 2000))
    return st.one_of(
        st.builds(lambda at, to: {"is": "link", "at": at, "to": to}, inner, target),
        st.builds(lambda at: {"is": "dir", "at": at}, inner),
        st.builds(lambda at: {"is": "deep", "at": at}, inner),
        st.builds(lambda at: {"is": "many", "at": at}, inner),
        st.builds(lambda at: {"is": "fifo", "at": at}, inner),
        st.builds(lambda at: {"is": "device", "at": at}, inner),
        st.builds(lambda at, size: {"is": "file", "at": at, "size": size}, inner, st.sampled_from([0, 1, 5000, 900_000, 1 << 40])),
        st.builds(lambda at, to: {"is": "hard", "at": at, "to": to}, inner, inner),
        st.builds(lambda at, mode: {"is": "mode", "at": at, "mode": mode}, inner, st.sampled_from([0, 0o111, 0o400, 0o2777, 0o6755])),
    )


# Makes them inside, as far as a program can; what does not work there (a device, a file where a directory belongs) is passed over.
MAKE = """
import base64, json, os, sys
os.umask(0)
for one in json.loads(sys.argv[2]):
    at = os.path.join(os.fsencode(sys.argv[1]), base64.b64decode(one["at"]))
    to = base64.b64decode(one.get("to", ""))
    try:
        os.makedirs(os.path.dirname(at), exist_ok=True)
        if one["is"] == "link": os.symlink(to, at)
        elif one["is"] == "dir": os.makedirs(at)
        elif one["is"] == "deep": os.makedirs(at + b"/d" * 40)
        elif one["is"] == "many":
            os.makedirs(at)
            for n in range(600): open(at + b"/%d" % n, "w").close()
        elif one["is"] == "fifo": os.mkfifo(at)
        elif one["is"] == "device": os.mknod(at, 0o20666, os.makedev(1, 5))
        elif one["is"] == "file": os.truncate(os.open(at, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK), one["size"])
        elif one["is"] == "hard": os.link(os.path.join(os.fsencode(sys.argv[1]), to), at)
        elif one["is"] == "mode": os.chmod(at, one["mode"])
    except OSError:
        pass
"""


def as_json(things) -> str:
    coded = [{key: base64.b64encode(value).decode() if isinstance(value, bytes) else value for key, value in one.items()} for one in things]
    return json.dumps(coded)


def archive(things) -> io.BytesIO:
    """The same as an archive; one of an agent's making says what no file system could hold."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for one in things:
            member = tarfile.TarInfo(one["at"].decode(errors="surrogateescape"))
            member.linkname = one.get("to", b"").decode(errors="surrogateescape")
            member.mode = one.get("mode", 0o644)
            kinds = {
                "link": tarfile.SYMTYPE,
                "dir": tarfile.DIRTYPE,
                "fifo": tarfile.FIFOTYPE,
                "device": tarfile.CHRTYPE,
                "hard": tarfile.LNKTYPE,
            }
            member.type = kinds.get(one["is"], tarfile.REGTYPE)
            count = 600 if one["is"] == "many" else 1
            for number in range(count):
                if one["is"] == "many":
                    member.name = f"{one['at'].decode(errors='surrogateescape')}/{number}"
                if one["is"] == "deep":
                    member.name += "/d" * 40
                body = b"" if one.get("size", 0) > 1 << 20 else bytes(one.get("size", 0))
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    file.seek(0)
    return file


@pytest.fixture
def outside(tmp_path):
    """A place of the host's with something of every kind, and a pipe that whoever opens it waits at for ever."""
    place = tmp_path / "outside"
    (place / "dir").mkdir(parents=True)
    (place / "file").write_bytes(SECRET)
    (place / "dir" / "file").write_bytes(SECRET)
    os.mkfifo(place / "pipe")
    return place


def state(place: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in [place, *place.rglob("*")]:
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_atime_ns)
    return found


def check(target: Path, names) -> None:
    """A tree as it may be on the host, and the only ways in which it is read."""
    count = total = 0
    for directory, below, files in os.walk(target):
        for name in (*below, *files):
            info = (Path(directory) / name).lstat()
            assert stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode), name
            assert not info.st_mode & 0o7000
            count, total = count + 1, total + (info.st_size if stat.S_ISREG(info.st_mode) else 0)
    assert count <= SMALL.entries and total <= SMALL.total_bytes
    for name in (*names, "..", "../outside/file", "/etc/passwd", "a/../../outside/file"):
        assert SECRET not in (reading.read_file(target, name, 1 << 20) or b"")
        reading.printable(name).encode()
    reading.remove(target, [*names, "..", "../outside/file", str(target.parent / "outside" / "file")])


def take(things, outside, receive) -> None:
    """``receive(target, cut)`` twice: as logs are taken, of which what is too much is left out, and as an answer."""
    before, began = state(outside), time.monotonic()
    for cut in (True, False):
        with tempfile.TemporaryDirectory(dir=outside.parent) as folder:
            target, got = Path(folder) / "received", Received((), (), (), ())
            with contextlib.suppress(UnsafeEntry, SandboxRefused):
                got = receive(target, cut)
            if target.exists():
                check(target, (*got.written, *got.gone, *dict(got.links)))
            assert [path.name for path in Path(folder).iterdir()] in ([], ["received"])
    assert state(outside) == before
    assert time.monotonic() - began < SOON_S


GENERATED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(data=st.data())
@GENERATED
def test_archives(outside, data):
    things = data.draw(st.lists(hostile(str(outside)), max_size=12))
    take(things, outside, lambda target, cut: unpack(archive(things), target, SMALL, cut))


def test_sandboxes(outside):
    """One sandbox; every tree in a directory of its own there."""
    with asyncio.Runner() as loop:
        sandbox = loop.run(start(SandboxSpec(limits=Limits(disk_mb=64, memory_mb=512, inodes=60_000)), "trees", "trees"))
        numbers = itertools.count()

        def receive(things, target, cut):
            root = f"/app{next(numbers)}"

            async def made():
                channel = sandbox.channel
                await channel.make_dirs(root)
                await channel.baseline(root)
                line = f"python3 -c {shlex.quote(MAKE)} {root} {shlex.quote(as_json(things))}"
                done = await channel.run(line, "/", ENV, 30.0, 1000)
                assert done.code == 0, done.stderr
                if cut:
                    return await channel.download(root, target, False, SMALL)
                return await channel.changes(root, target, SMALL)

            return loop.run(made())

        @given(data=st.data())
        @GENERATED
        def generated(data):
            things = data.draw(st.lists(hostile(str(outside)), max_size=12))
            take(things, outside, lambda target, cut: receive(things, target, cut))

        try:
            generated()
        finally:
            loop.run(sandbox.stop())


def test_an_archive_that_says_more_than_it_holds_is_not_read_to_its_end(tmp_path):
    """A hole of 2**50 bytes, and one body under ten thousand names: a few kilobytes that would be terabytes."""
    hole, many = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=hole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("hole")
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "hole",
            "GNU.sparse.realsize": str(1 << 50),
        }
        body = b"1\n0\n0\n".ljust(512, b"\0")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    with tarfile.open(fileobj=many, mode="w") as tar:
        member = tarfile.TarInfo("first")
        member.size = 900_000
        tar.addfile(member, io.BytesIO(bytes(900_000)))
        for number in range(10_000):
            member = tarfile.TarInfo(f"d{number}/again")
            member.type, member.linkname = tarfile.LNKTYPE, "first"
            tar.addfile(member)
    began = time.monotonic()
    for file, whole, left_out in ((hole, (), "hole"), (many, ("first",), "d9/again")):
        file.seek(0)
        got = unpack(file, tmp_path / left_out[0], SMALL, cut=True)
        assert got.written[:1] == whole and left_out in got.left_out
        file.seek(0)
        with pytest.raises(UnsafeEntry):
            unpack(file, tmp_path / "no", SMALL)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 3 * SMALL.total_bytes
    assert time.monotonic() - began < SOON_S


def test_a_slow_disk_holds_nobody_else_up(tmp_path, monkeypatch):
    """What comes out is written in threads: the loop, and with it every other trial, goes on."""
    feed = tree.Unpacker.feed
    monkeypatch.setattr(tree.Unpacker, "feed", lambda self, data: (time.sleep(0.7), feed(self, data))[1])

    async def main():
        sandbox = await start(SandboxSpec(limits=Limits(disk_mb=64, memory_mb=512)), "trees", "slow")
        gaps, last = [], time.monotonic()

        async def beat():
            nonlocal last
            while True:
                await asyncio.sleep(0.02)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        beating = asyncio.create_task(beat())
        try:
            await sandbox.channel.run("mkdir /logs; head -c 1000000 /dev/zero > /logs/f", "/", ENV, 30.0, 1000)
            got = await sandbox.channel.download("/logs", tmp_path / "out", False, Bounds())
            assert got.written == ("f",) and sum(gaps) > 1.4 and max(gaps) < 0.6, max(gaps)
        finally:
            beating.cancel()
            await sandbox.stop()

    asyncio.run(main())
