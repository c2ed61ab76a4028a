"""What the ELF files of installed packages need from outside their package: the evidence for nix/elf.toml.

``scan`` sums up environments with ``swerl.environment.elf``. Run as a script it writes
``elf_needs.json``, which holds the GPU packages too, so that the table is tested on machines that have only the CPU environment.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from swerl.environment.elf import read_dynamic
from swerl.environment.installed import Environment, read_environment

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
