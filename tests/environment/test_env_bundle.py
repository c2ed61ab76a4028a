"""A bundle arrives as it left: packed here, installed by a Python that knows nothing of swerl, compared with the lock by RECORD hashes."""

from __future__ import annotations

import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from swerl.cli import run as swerl_run
from swerl.environment import bundle
from swerl.environment.blocks import BlockWriter
from swerl.environment.bundle import Trim, plan, read_inventory, read_trim, write
from swerl.environment.elf import read_dynamic
from swerl.environment.installed import read_environment
from swerl.environment.inventory import inventory
from swerl.environment.lock import load_lock
from swerl.environment.records import anchors_of
from swerl.environment.verify import verify
from swerl.errors import SwerlError

from .conftest import install as lay_out

PART_BYTES = 300


def packed(project: Path, out: Path, **options) -> dict:
    environments = {"train": (read_environment(project / "env"), ["one"])}
    return write(plan(load_lock(project / "uv.lock"), environments, **options), out, PART_BYTES)


def install(bundle: Path, into: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(bundle / "install.py"), "--into", str(into), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def host_with(folder: Path, *packages: tuple[str, str, dict[str, bytes]]) -> dict:
    for name, version, files in packages:
        lay_out(folder, name, version, files)
    return inventory([str(folder)])


def test_what_arrives_is_what_the_lock_says(project, tmp_path):
    manifest = packed(project, tmp_path / "bundle")
    assert len(manifest["parts"]) > 2 and all(p["bytes"] <= PART_BYTES for p in manifest["parts"])
    done = install(tmp_path / "bundle", tmp_path / "there")
    assert done.returncode == 0, done.stderr
    lock, arrived = load_lock(project / "uv.lock"), read_environment(tmp_path / "there" / "train")
    report = verify(arrived, lock, ["one"], anchors_of(read_environment(project / "env"), lock))
    assert report.ok and report.anchored == 2, report.problems
    shown = subprocess.run(
        [tmp_path / "there/train/bin/python", "-c", "import alpha, beta_tools; print(beta_tools.run())"], capture_output=True
    )
    assert shown.stdout == b"2\n"
    cached = list((tmp_path / "there").rglob("*.pyc"))
    assert cached and all(p.read_bytes()[4] == 0b01 for p in cached), "bytecode by content, not by time"


def test_the_same_input_gives_the_same_parts(project, tmp_path):
    assert packed(project, tmp_path / "a") == packed(project, tmp_path / "b")
    for part in (tmp_path / "a").iterdir():
        assert part.read_bytes() == (tmp_path / "b" / part.name).read_bytes()


def test_what_the_host_has_is_left_out_and_found_there(project, tmp_path):
    """alpha is there with the lock's bytes, under a local version as PyTorch's index gives; beta-tools is there in another version."""
    alpha = {"alpha/__init__.py": b"VALUE = 1\n", "alpha/data.bin": bytes(range(256))}
    found = host_with(
        tmp_path / "host", ("alpha", "1.0+cu130", alpha), ("beta-tools", "2.0", {"beta_tools.py": b"def run():\n    return 1\n"})
    )
    manifest = packed(project, tmp_path / "bundle", inventory=found)
    assert list(manifest["kept"]) == ["alpha"] and manifest["kept"]["alpha"]["version"] == "1.0+cu130"
    assert install(tmp_path / "bundle", tmp_path / "there").returncode == 0
    code = "import alpha, beta_tools; print(alpha.__file__, beta_tools.run())"
    shown = subprocess.run([tmp_path / "there/train/bin/python", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown == [str((tmp_path / "host" / "alpha" / "__init__.py").resolve()), "2"], (
        "the host's alpha, the bundle's beta-tools before the host's"
    )


def test_a_host_that_changed_since_the_inventory_is_refused(project, tmp_path):
    found = host_with(tmp_path / "host", ("alpha", "1.0", {"alpha/__init__.py": b""}))
    packed(project, tmp_path / "bundle", inventory=found)
    metadata = tmp_path / "host" / "alpha-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    done = install(tmp_path / "bundle", tmp_path / "there")
    assert done.returncode == 1 and "alpha is 1.1 here and was 1.0" in done.stderr and not (tmp_path / "there").exists()


def test_whether_the_hosts_bytes_are_the_locks_is_recorded(project, tmp_path):
    same = {"alpha/__init__.py": b"VALUE = 1\n", "alpha/data.bin": bytes(range(256))}
    equal = packed(project, tmp_path / "a", inventory=host_with(tmp_path / "one", ("alpha", "1.0", same)))
    other = packed(project, tmp_path / "b", inventory=host_with(tmp_path / "two", ("alpha", "1.0", {"alpha/__init__.py": b"other"})))
    assert equal["kept"]["alpha"]["same_bytes"] is True and other["kept"]["alpha"]["same_bytes"] is False


@pytest.mark.parametrize("part", [0, -1])
def test_a_damaged_part_is_named_and_nothing_stays(project, tmp_path, part):
    manifest = packed(project, tmp_path / "bundle")
    path = tmp_path / "bundle" / manifest["parts"][part]["name"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = install(tmp_path / "bundle", tmp_path / "there")
    assert done.returncode == 1 and "SWERL-E045" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if "there" in p.name) == []


def test_a_missing_and_a_short_part_are_named_before_anything_is_written(project, tmp_path):
    manifest = packed(project, tmp_path / "bundle")
    last = tmp_path / "bundle" / manifest["parts"][-1]["name"]
    last.write_bytes(last.read_bytes()[:-1])
    assert f"{last.name} has" in install(tmp_path / "bundle", tmp_path / "there").stderr
    last.unlink()
    assert f"{last.name} is missing" in install(tmp_path / "bundle", tmp_path / "there").stderr


def test_another_list_of_files_is_refused(project, tmp_path):
    packed(project, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    manifest["listing_sha256"] = "0" * 64
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(manifest))
    assert "list of files" in install(tmp_path / "bundle", tmp_path / "there").stderr


def test_a_folder_that_exists_is_left_alone(project, tmp_path):
    packed(project, tmp_path / "bundle")
    (tmp_path / "there").mkdir()
    assert "exists" in install(tmp_path / "bundle", tmp_path / "there").stderr
    with pytest.raises(SwerlError, match="SWERL-E043"):
        packed(project, tmp_path / "bundle")


def test_altered_and_missing_files_are_named_together_before_anything_is_packed(project, tmp_path):
    site = project / "env/lib/python3.12/site-packages"
    (site / "beta_tools.py").write_text("changed")
    (site / "alpha/data.bin").unlink()
    with pytest.raises(SwerlError, match="SWERL-E044") as refused:
        packed(project, tmp_path / "bundle")
    assert "2 files" in str(refused.value) and "beta_tools.py" in str(refused.value) and "data.bin" in str(refused.value)
    assert not (tmp_path / "bundle").exists()


def test_a_file_that_changes_while_it_is_packed_is_refused(project, tmp_path, monkeypatch):
    """After the comparison, before its own turn: what is packed is read once more."""
    changing = project / "env/lib/python3.12/site-packages/beta_tools.py"
    monkeypatch.setattr(bundle, "_refuse_altered", lambda items: changing.write_text("changed"))
    with pytest.raises(SwerlError, match=r"SWERL-E044.*while it was packed"):
        packed(project, tmp_path / "bundle")


def test_a_trim_takes_packages_and_files_and_says_so(project, tmp_path):
    manifest = packed(project, tmp_path / "bundle", trim=Trim(frozenset({"beta-tools"}), ("alpha/*.bin",)))
    assert manifest["dropped"] == ["train: alpha/data.bin", "train: beta-tools 2.1"]
    assert install(tmp_path / "bundle", tmp_path / "there").returncode == 0
    site = tmp_path / "there/train/lib/python3.12/site-packages"
    assert (site / "alpha/__init__.py").exists() and not (site / "alpha/data.bin").exists() and not (site / "beta_tools.py").exists()


def test_a_trim_that_drops_a_linked_library_is_refused(project, tmp_path):
    """Real ELF files: one that links libc, and something of that name to drop."""
    site = project / "env/lib/python3.12/site-packages"
    linked = Path(orjson.__file__).parent / next(p.name for p in Path(orjson.__file__).parent.glob("*.so"))
    name = read_dynamic(linked).needed[0]
    lay_out(site, "gamma", "0.3", {"gamma/native.so": linked.read_bytes(), f"gamma/libs/{name}": linked.read_bytes()})
    environments = {"train": (read_environment(project / "env"), ["two"])}
    with pytest.raises(SwerlError, match=rf"SWERL-E046.*gamma/native.so links {name}"):
        plan(load_lock(project / "uv.lock"), environments, trim=Trim(files=("gamma/libs/*",)))
    plan(load_lock(project / "uv.lock"), environments, trim=Trim(files=("gamma/*.so*",)))


def test_files_that_occur_twice_are_stored_once(project, tmp_path):
    big = bytes(i * 7 % 251 for i in range(20_000))
    (tmp_path / "model").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "model" / name).write_bytes(big)
    one = packed(project, tmp_path / "x", extras={"model": tmp_path / "model" / "a"})
    three = packed(project, tmp_path / "y", extras={"model": tmp_path / "model"})
    size = lambda manifest: sum(p["bytes"] for p in manifest["parts"])  # noqa: E731
    assert size(three) - size(one) < 300
    assert install(tmp_path / "y", tmp_path / "there").returncode == 0
    assert all((tmp_path / "there/model" / name).read_bytes() == big for name in "abc")


def test_the_project_is_put_on_the_path(project, tmp_path):
    packed(project, tmp_path / "bundle")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "mine.py").write_text("")
    assert install(tmp_path / "bundle", tmp_path / "there", "--project", str(tmp_path / "checkout")).returncode == 0
    subprocess.run([tmp_path / "there/train/bin/python", "-c", "import mine"], check=True)


def test_commands_are_written_for_the_python_that_is_there(project, tmp_path):
    """Those of the packages that were brought, and the project's own from its pyproject.toml; a host's commands stay the host's."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "mine.py").write_text("def main():\n    print('mine')\n    return 3\n")
    (checkout / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "4"\n[project.scripts]\nmine = "mine:main"\n')
    packed(project, tmp_path / "bundle")
    assert install(tmp_path / "bundle", tmp_path / "there", "--project", str(checkout)).returncode == 0
    mine = subprocess.run([tmp_path / "there/train/bin/mine"], capture_output=True, text=True, check=False)
    assert (mine.stdout, mine.returncode) == ("mine\n", 3)
    code = "import importlib.metadata as m; print(m.version('mine'), sorted(e.name for e in m.entry_points(group='console_scripts')))"
    told = subprocess.run([tmp_path / "there/train/bin/python", "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "4 ['beta', 'mine']\n", "the project is found as if it were installed"
    assert json.loads((tmp_path / "there/bundle.json").read_text())["files"] > 0
    assert subprocess.run([tmp_path / "there/train/bin/beta"], capture_output=True, check=False).returncode == 2


def test_blocks_are_one_xz_file_whatever_the_number_of_workers(tmp_path):
    data = b"".join(bytes([i % 256]) * (i % 97) for i in range(4000))
    written = []
    for workers in (1, 3):
        with io.BytesIO() as sink:
            with BlockWriter(sink, preset=1, block_bytes=10_000, workers=workers) as packed_:
                for start in range(0, len(data), 7_000):
                    packed_.write(data[start : start + 7_000])
            written.append(sink.getvalue())
    assert written[0] == written[1] and lzma.decompress(written[0]) == data
    assert subprocess.run(["xz", "-dc"], input=written[0], capture_output=True, check=True).stdout == data


def test_an_environment_that_is_not_the_locks_is_refused(project):
    with pytest.raises(SwerlError, match=r"SWERL-E042.*gamma is absent"):
        plan(load_lock(project / "uv.lock"), {"train": (read_environment(project / "env"), ["two"])})


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": 2, "distributions": {}, "python": "3.12.1"}', '{"format": 1, "distributions": {}, "python": "3.11.9"}']
)
def test_what_is_no_inventory_of_python_3_12_is_refused(tmp_path, text):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(SwerlError, match="SWERL-E041"):
        read_inventory(tmp_path / "i.json")


def test_trims_name_packages_of_the_lock():
    lock = load_lock(Path(__file__).parents[2] / "uv.lock")
    assert read_trim("hopper").packages <= {name for name, _ in lock.packages}
    with pytest.raises(SwerlError, match="SWERL-E040"):
        read_trim("abacus")


def test_the_verb_packs_and_says_what_comes_next(project, tmp_path, capsys, monkeypatch):
    """Through the command line, with the real trials environment left out: one small environment under the extra's name."""
    monkeypatch.chdir(project)
    lock = (project / "uv.lock").read_text().replace('extra = "one"', 'extra = "gpu"').replace("one = [", "gpu = [")
    (project / "uv.lock").write_text(lock)
    words = ["env", "bundle", "--train", str(project / "env"), "--out", str(tmp_path / "out"), "--part-mb", "0.001", "--preset", "0"]
    assert swerl_run(words) == 0
    told = capsys.readouterr().out
    assert "install.py --into" in told and (tmp_path / "out" / "swerl-bundle.001").exists()
