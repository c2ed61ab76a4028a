"""What the ELF files of installed packages need from outside their package: the evidence for nix/elf.toml.

``read_dynamic`` reads the dynamic section of one 64-bit little-endian file; ``scan`` sums up environments. Run as a script it writes
``elf_needs.json``, which holds the GPU packages too, so that the table is tested on machines that have only the CPU environment.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swerl.environment.installed import Environment, read_environment

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME = 0, 1, 5, 14


@dataclass(frozen=True, slots=True)
class Dynamic:
    needed: tuple[str, ...]
    soname: str | None


def read_dynamic(path: Path) -> Dynamic | None:
    """None for anything that is not a dynamically linked x86_64 ELF file."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01" or len(head) < 64 or struct.unpack_from("<H", head, 18)[0] != 62:
            return None
        offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
        segments = [struct.unpack_from("<IIQQQQ", table, i * size) for i in range(count)]
        dynamic = next((s for s in segments if s[0] == _PT_DYNAMIC), None)
        if dynamic is None:
            return None
        file.seek(dynamic[2])
        raw = file.read(dynamic[5])
        entries = [struct.unpack_from("<qQ", raw, i) for i in range(0, len(raw) - 15, 16)]
        entries = entries[: next((i for i, e in enumerate(entries) if e[0] == _DT_NULL), len(entries))]
        strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
        if strings is None:
            return None

        def text(at: int) -> str:
            address = strings + at
            segment = next(s for s in segments if s[0] == _PT_LOAD and s[3] <= address < s[3] + s[5])
            file.seek(address - segment[3] + segment[2])
            return file.read(512).split(b"\0", 1)[0].decode()

        needed = tuple(text(value) for tag, value in entries if tag == _DT_NEEDED)
        soname = next((text(value) for tag, value in entries if tag == _DT_SONAME), None)
        return Dynamic(needed, soname)


# Files of the C library and of the compiler's run time: nixpkgs' autoPatchelf finds them by itself, and every glibc host has them.
RUNTIME = re.compile(r"(ld-linux-x86-64|libc|libm|libmvec|libdl|librt|libpthread|libutil|libresolv|libgcc_s|libstdc\+\+)\.so(\.\d+)*")


def scan(environments: Iterable[Environment]) -> dict[str, dict[str, list[str]]]:
    """Per ``name==version``: sonames it needs from outside itself (``needs``), and those of all needed ones that it has (``provides``)."""
    needs: dict[str, set[str]] = {}
    provides: dict[str, set[str]] = {}
    for env in environments:
        for dist in env.distributions:
            key = f"{dist.name}=={dist.version}"
            if key in needs:
                continue
            wanted, own = set(), set()
            for path in (env.site_packages / e.path for e in dist.entries if (e.size_bytes or 0) > 1000):
                if (".so" in path.name or "." not in path.name or path.suffix == ".o") and (dynamic := read_dynamic(path)):
                    wanted |= set(dynamic.needed)
                    own |= {path.name} | ({dynamic.soname} if dynamic.soname else set())
            needs[key], provides[key] = {n for n in wanted - own if not RUNTIME.fullmatch(n)}, own
    asked = set().union(*needs.values()) if needs else set()
    return {
        "needs": {key: sorted(names) for key, names in sorted(needs.items()) if names},
        "provides": {key: sorted(names & asked) for key, names in sorted(provides.items()) if names & asked},
    }


if __name__ == "__main__":
    # python tests/nix/elf.py .venv/train .venv/trials GPU_ENVIRONMENT > tests/nix/elf_needs.json
    json.dump(scan(read_environment(Path(root)) for root in sys.argv[1:]), sys.stdout, indent=1)
    sys.stdout.write("\n")
