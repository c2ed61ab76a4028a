"""Every form in which git keeps what was, in a real sandbox: after `history.FORGET` nothing of a task's past can be read there."""

import asyncio
import shutil
import subprocess

import pytest

from swerl.trials.sandboxes import history
from swerl.trials.sandboxes.launch import start
from swerl.trials.sandboxes.spec import DEFAULT_PATH, Limits, SandboxSpec

ENV = {"PATH": DEFAULT_PATH, "HOME": "/root"}
FIX = "the text of the fix"

# Reads all of the sandbox that is not the host's: loose objects, whatever they lie in; packs and bundles are named.
LOOK = rf"""
import os, zlib
for top in ("/app", "/srv", "/root", "/opt", "/tmp"):
    for directory, _, files in os.walk(os.fsencode(top)):
        for name in files:
            path = os.path.join(directory, name)
            if os.path.islink(path): continue
            data = open(path, "rb").read()
            try: text = zlib.decompressobj().decompress(data)
            except zlib.error: text = data
            if {FIX.encode()!r} in text: print("TEXT", path)
            if data.startswith((b"PACK", b"# v2 git bun", b"# v3 git bun")): print("PACK", path)
"""


def git(where, *words):
    line = ["git", "-C", str(where), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def repository(where, *options):
    """Bug, fix, and the bug again: the fix is in the past only."""
    where.mkdir(parents=True, exist_ok=True)
    git(where, "init", "-q", "-b", "main", *options)
    for text in ("bug", FIX, "bug"):
        (where / "calc.py").write_text(text)
        git(where, "add", "-A")
        git(where, "commit", "-q", "-m", text)
    return where


def plain(root):
    repository(root / "app")


def packed(root):
    git(repository(root / "app"), "branch", "later", "HEAD~1")
    git(root / "app", "pack-refs", "--all")
    git(root / "app", "gc", "-q")


def nested(root):
    repository(root / "app")
    repository(root / "app" / "lib" / "a b\n-x")


def above(root):
    repository(root / "app")
    (root / "app" / "pkg").mkdir()
    (root / "app" / "pkg" / "f").write_text("f")


def submodule(root):
    repository(root / "srv" / "other")
    git(repository(root / "app"), "submodule", "--quiet", "add", str(root / "srv" / "other"), "sub")
    shutil.rmtree(root / "srv")
    git(root / "app", "commit", "-q", "-m", "sub")
    assert (root / "app" / "sub" / ".git").is_file()


def worktree(root):
    git(repository(root / "srv" / "main"), "worktree", "add", "-q", str(root / "app"), "HEAD")
    assert (root / "app" / ".git").is_file()


def separate(root):
    (root / "opt").mkdir()
    repository(root / "app", f"--separate-git-dir={root / 'opt' / 'elsewhere'}")


def a_link(root):
    (root / "srv").mkdir()
    repository(root / "app")
    (root / "app" / ".git").rename(root / "srv" / "store")
    (root / "app" / ".git").symlink_to("/srv/store")


def borrowed(root):
    repository(root / "srv" / "one")
    git(root / "srv" / "one", "gc", "-q")
    git(root, "clone", "-q", "--shared", str(root / "srv" / "one"), str(root / "app"))
    (root / "opt" / "pool").mkdir(parents=True)
    (root / "srv" / "one" / ".git" / "objects").rename(root / "opt" / "pool" / "objects")


def bare(root):
    repository(root / "app")
    git(root, "clone", "-q", "--bare", str(root / "app"), str(root / "opt" / "backup of it"))
    shutil.rmtree(root / "app" / ".git")


def files(root):
    git(repository(root / "app"), "bundle", "create", "-q", str(root / "app" / "all.bundle"), "--all")
    git(root / "app", "gc", "-q")
    (pack,) = (root / "app" / ".git" / "objects" / "pack").glob("*.pack")
    (root / "root").mkdir()
    pack.rename(root / "root" / "x.pack")


def stashed(root):
    (repository(root / "app") / "calc.py").write_text(FIX + " again")
    git(root / "app", "stash", "-q")
    git(root / "app", "reset", "-q", "--hard", "HEAD~2")


FORMS = (plain, packed, nested, above, submodule, worktree, separate, a_link, borrowed, bare, files, stashed)


def forget(root, workdir="/app"):
    """What `LOOK` finds after the script, and what git says in every directory that has one commit."""

    async def main():
        sandbox = await start(SandboxSpec(limits=Limits(disk_mb=128, memory_mb=512)), "history", root.name)
        try:
            channel = sandbox.channel
            await channel.upload(root, "/")
            before = await channel.run(f"python3 - <<'E'\n{LOOK}\nE", "/", ENV, 60.0, 1 << 20)
            done = await channel.run(history.FORGET, workdir, ENV, 60.0, 1 << 20)
            assert done.code == 0, (done.stdout, done.stderr)
            after = await channel.run(f"python3 - <<'E'\n{LOOK}\nE", "/", ENV, 60.0, 1 << 20)
            log = await channel.run("git log --format=%s; git status --short", workdir, ENV, 60.0, 1 << 20)
            left = await channel.run(
                "find /app /srv /opt /root -name .swerl-one -o -name .git -o -name keep | sort", "/", ENV, 60.0, 1 << 20
            )
            return before.stdout.decode(), after.stdout.decode(), log.stdout.decode(), left.stdout.decode().split("\n")[:-1]
        finally:
            await sandbox.stop()

    return asyncio.run(main())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_nothing_of_the_past_is_left(tmp_path, form):
    root = tmp_path / form.__name__
    root.mkdir()
    form(root)
    before, after, log, left = forget(root, "/app/pkg" if form is above else "/app")
    assert before and not after, after
    assert history.may_be_in(root)
    if form is not bare:
        assert log == "start\n" and "/app/.git" in left and not any("swerl" in path for path in left)
    assert not any(path.startswith(("/srv", "/opt", "/root")) for path in left)


def test_what_is_a_repositorys_own_content_stays(tmp_path):
    """A project that tests git has repositories among its files. What was committed with them is no past of the project's."""
    root = tmp_path / "fixture"
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "store"))
    app = repository(root / "app")
    shutil.copytree(tmp_path / "store", app / "tests" / "data.git")
    git(app, "add", "-A", "-f")
    (app / "tests" / "data.git" / "objects" / "info" / "keep").write_text("x")
    (app / "tests" / "data.git" / "objects" / "pack" / "keep").write_text("x")
    git(app, "add", "-A", "-f")
    git(app, "commit", "-q", "-m", "fixture")
    (app / "objects").mkdir()
    (app / "objects" / "model.py").write_text("x")
    _, after, log, left = forget(root)
    assert not after and log == "start\n"
    assert left == ["/app/.git", "/app/tests/data.git/objects/info/keep", "/app/tests/data.git/objects/pack/keep"]


def test_a_directory_without_a_past_has_none(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "git.py").write_text("x")
    assert not history.may_be_in(tmp_path)
