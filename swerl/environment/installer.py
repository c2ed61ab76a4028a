"""Installs a bundle on a host without network. Standard library only, Python 3.12; it is copied beside the parts as ``install.py``.

    python3 install.py --into FOLDER [--project CHECKOUT]

Every part is compared with the sha256 in bundle.json before it is unpacked, the list of files with its digest, and every file with the
list. What the host is said to have must be there in that version. ``FOLDER/train`` and ``FOLDER/trials`` are environments afterwards
(``environment.venv_path``, ``environment.trials_venv_path``); nothing outside FOLDER is written. A FOLDER that exists is refused.
"""

import argparse
import base64
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

FORMAT = 1
MANIFEST = "bundle.json"
LISTING = "files.json"
PART = "swerl-bundle."
SITE = "lib/python3.12/site-packages"
HOST_PATHS = "_swerl_host.pth"
PROJECT_PATH = "_swerl_project.pth"


class BundleError(Exception):
    """What keeps the bundle from being installed, in one sentence."""


class Joined:
    """The parts, read one after the other as one stream, each compared with its hash when it ends."""

    def __init__(self, folder, parts):
        self.folder, self.parts = folder, list(parts)
        self.file = self.sha256 = self.part = None

    def read(self, size=-1):
        data = b""
        while size < 0 or len(data) < size:
            if self.file is None:
                if not self.parts:
                    break
                self.part = self.parts.pop(0)
                self.file, self.sha256 = (self.folder / self.part["name"]).open("rb"), hashlib.sha256()
            piece = self.file.read(size - len(data) if size >= 0 else -1)
            if piece:
                self.sha256.update(piece)
                data += piece
            else:
                self.file.close()
                self.file = None
                if self.sha256.hexdigest() != self.part["sha256"]:
                    raise BundleError(f"{self.part['name']} is damaged: copy it again")
        return data


def read_manifest(folder):
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error}") from error
    if manifest["format"] != FORMAT:
        raise BundleError(f"{MANIFEST} has format {manifest['format']}, this installer reads {FORMAT}")
    return manifest


def check_host(manifest, folder):
    """Everything that can be known before anything is written."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != manifest["python"]:
        raise BundleError(f"this is Python {sys.version.split()[0]}; the bundle is for {manifest['python']}")
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            raise BundleError(f"{part['name']} is missing: copy all {len(manifest['parts'])} parts beside install.py")
        if path.stat().st_size != part["bytes"]:
            raise BundleError(f"{part['name']} has {path.stat().st_size} bytes instead of {part['bytes']}: copy it again")
    here = {}
    for dist in distributions(path=manifest["host_sites"]):
        if dist.name:
            here.setdefault(dist.name.lower().replace("_", "-").replace(".", "-"), dist.version)
    for name, entry in manifest["kept"].items():
        if here.get(name) != entry["version"]:
            found = here.get(name, "absent")
            raise BundleError(f"{name} is {found} here and was {entry['version']} in the inventory: make a new inventory and bundle")


def unpack(manifest, folder, into):
    """Unpack and compare every file with the list. Links lead to files of the bundle only."""
    seen = set()
    listing = None
    joined = Joined(folder, manifest["parts"])
    with lzma.open(joined) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if listing is None:
                data = archive.extractfile(member).read() if member.name == LISTING else b""
                if hashlib.sha256(data).hexdigest() != manifest["listing_sha256"]:
                    raise BundleError("the list of files is not the one of bundle.json")
                listing = json.loads(data)
                continue
            if member.name not in listing:
                raise BundleError(f"{member.name} is in no list")
            target = into / safe(member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.islnk():
                if member.linkname not in seen:
                    raise BundleError(f"{member.name} links to {member.linkname}, which was not unpacked before it")
                os.link(into / safe(member.linkname), target)
            elif member.isfile():
                digest = hashlib.sha256()
                source = archive.extractfile(member)
                with target.open("xb") as file:
                    while piece := source.read(1 << 20):
                        digest.update(piece)
                        file.write(piece)
                if digest.hexdigest() != listing[member.name][0]:
                    raise BundleError(f"{member.name} is not what the list says")
                target.chmod(0o755 if listing[member.name][1] else 0o644)
            else:
                raise BundleError(f"{member.name} is neither a file nor a link")
            if member.islnk() and listing[member.name][0] != listing[member.linkname][0]:
                raise BundleError(f"{member.name} links to other bytes")
            seen.add(member.name)
        while stream.read(1 << 20):
            pass  # what follows the archive's end counts for the hash of its part
    missing = sorted(set(listing or {}) - seen)
    if listing is None or missing:
        raise BundleError(f"{len(missing)} files are missing, {missing[0]} among them" if missing else "the archive is empty")
    return len(seen)


def safe(name):
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BundleError(f"{name} would leave the folder")
    return name


def make_environment(root, host_sites, project):
    """An interpreter and the paths: the bundle's packages first, then the project, then what the host has. No line runs code."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    lines = {PROJECT_PATH: [str(project.resolve())] if project else [], HOST_PATHS: host_sites}
    for name, paths in lines.items():
        if paths:
            (root / SITE / name).write_text("\n".join(paths) + "\n", encoding="utf-8")


def write_project(root, project):
    """The project's metadata, as an editable installation leaves it: version and entry points are found; the code is the checkout's."""
    told = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": told.get("scripts", {}), **told.get("entry-points", {})}
    sections = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items()) for group, entries in groups.items()]
    info = root / SITE / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n",
        "entry_points.txt": "\n".join(sections),
        "INSTALLER": "swerl\n",
    }
    info.mkdir()
    for name, text in files.items():
        (info / name).write_text(text, encoding="utf-8")
    lines = [f"{info.name}/{name},sha256={_recorded(text.encode())},{len(text.encode())}" for name, text in files.items()]
    lines += [f"{PROJECT_PATH},,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recorded(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def write_commands(root):
    """The console scripts of what is installed: they name this Python, so the bundle could not bring them."""
    commands = {e.name: e.value for d in distributions(path=[str(root / SITE)]) for e in d.entry_points if e.group == "console_scripts"}
    for name, value in sorted(commands.items()):
        module, _, attribute = value.partition("[")[0].strip().partition(":")
        path = root / "bin" / safe(name)
        lines = [
            f"#!{root / 'bin/python'}",
            "import sys",
            f"from {module} import {attribute.partition('.')[0]}",
            f"sys.exit({attribute}())",
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o755)


def compile_all(root):
    """Bytecode once, by content; without it every process of a run compiles for itself. Files that no Python 3.12 compiles are left."""
    command = [str(root / "bin/python"), "-I", "-m", "compileall", "-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, str(root / SITE)], check=False, env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"})


def install(folder, into, project=None, compiled=True):
    """Raises BundleError and leaves FOLDER away when anything is not as it should be. Returns the manifest."""
    if into.exists():
        raise BundleError(f"{into} exists: name a new folder")
    manifest = read_manifest(folder)
    check_host(manifest, folder)
    staging = into.with_name(into.name + ".unfinished")
    if staging.exists():
        raise BundleError(f"{staging} is left from an earlier try: remove it")
    staging.mkdir(parents=True)
    try:
        files = unpack(manifest, folder, staging)
    except BaseException:
        shutil.rmtree(staging)
        raise
    staging.rename(into)
    shutil.copyfile(folder / MANIFEST, into / MANIFEST)  # preflight reads there what was left out on purpose
    for name in manifest["environments"]:
        make_environment(into / name, manifest["host_sites"] if name == "train" else [], project)
        if project and (project / "pyproject.toml").is_file():
            write_project(into / name, project)
        write_commands(into.resolve() / name)
        if compiled:
            compile_all(into / name)
    print(f"{files} files into {into}: " + ", ".join(f"{into / name}/bin/python" for name in manifest["environments"]))
    return manifest


def main():
    parser = argparse.ArgumentParser(description="Install a swerl bundle on a host without network.")
    parser.add_argument("--into", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--project", type=Path, help="a checkout of the project, put on the path of both environments")
    parser.add_argument("--from", dest="folder", type=Path, default=Path(__file__).resolve().parent, help="where the parts are")
    parser.add_argument("--no-compile", action="store_true", help="leave bytecode to the processes")
    arguments = parser.parse_args()
    try:
        install(arguments.folder, arguments.into, arguments.project, not arguments.no_compile)
    except (BundleError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        print(f"SWERL-E045 {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
