"""Agents' runtimes: only the bytes of the table, only below their folder, the same folder every time."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from swerl.environment.agents import Archive, PythonAgent, install, is_current, problems, read_agents, write_manifest
from swerl.errors import SwerlError

ROOT = Path(__file__).parents[2]


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def agent(data: bytes, **rest) -> Archive:
    return Archive("demo", "1.0", "https://index.example/demo.tgz", hashlib.sha512(data).hexdigest(), **rest)


def test_the_table_pins_every_archive():
    for entry in read_agents(ROOT / "containers" / "agents.json"):
        if isinstance(entry, PythonAgent):
            pins = (ROOT / "containers" / "agents" / f"{entry.name}.txt").read_text()
            assert f"{entry.name}=={entry.version} " in pins and pins.count("==") <= pins.count("--hash=sha256:")
            continue
        assert len(entry.sha512) == 128 and entry.url.startswith("https://registry.npmjs.org/") and entry.version in entry.url


def test_files_links_and_sums(tmp_path):
    data = archive(**{"package/claude": b"#!/bin/sh\necho hi\n", "package/LICENSE": b"x"})
    sums = install([agent(data, strip=1, links={"bin/claude": "claude"})], tmp_path / "out", read=lambda url: data)
    assert set(sums) == {"demo/claude", "demo/LICENSE"}
    assert subprocess.run([tmp_path / "out/demo/bin/claude"], capture_output=True, text=True, check=True).stdout == "hi\n"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    assert install([agent(data, strip=1, links={"bin/claude": "claude"})], tmp_path / "out", read=lambda url: data) == sums


def test_programs_are_linked_and_changes_are_found(tmp_path):
    data, out = archive(**{"package/bin/tool": b"#!/bin/sh\necho hi\n", "package/voice/lib": b"x"}), tmp_path / "out"
    entry = agent(data, strip=1, leave=["voice"])
    install([entry], out, read=lambda url: data)
    write_manifest([entry], out, "digest")
    assert (out / "bin" / "tool").resolve() == out / "demo" / "bin" / "tool" and not (out / "demo" / "voice").exists()
    assert is_current(out, "digest") and not is_current(out, "other") and problems(out) == []
    (out / "demo" / "bin" / "tool").write_bytes(b"changed")
    (out / "demo" / "more").write_bytes(b"new")
    assert problems(out) == ["demo/more is not of the table", "demo/bin/tool was changed"]
    (out / "demo" / "bin" / "tool").unlink()
    assert problems(out) == ["demo/bin/tool is missing", "demo/more is not of the table"]


def test_other_bytes_are_refused(tmp_path):
    with pytest.raises(SwerlError, match="SWERL-E033"):
        install([agent(b"expected")], tmp_path / "out", read=lambda url: archive(a=b"other"))
    assert not (tmp_path / "out" / "demo").exists()


def test_a_path_outside_is_refused(tmp_path):
    data = archive(**{"../../evil": b"x"})
    with pytest.raises(SwerlError, match="outside the destination"):
        install([agent(data)], tmp_path / "out", read=lambda url: data)
    assert not (tmp_path / "evil").exists()


def test_a_link_to_nothing_is_refused(tmp_path):
    data = archive(a=b"x")
    with pytest.raises(SwerlError, match="has no claude"):
        install([agent(data, links={"bin/claude": "claude"})], tmp_path / "out", read=lambda url: data)


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "agents.json").write_text('{"x": {"version": "1"}}')
    with pytest.raises(SwerlError, match="SWERL-E033"):
        read_agents(tmp_path / "agents.json")
