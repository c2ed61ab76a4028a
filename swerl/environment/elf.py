"""What a dynamically linked file needs and is called, from its dynamic section; no tool of binutils is asked.

Names follow the System V ABI, chapter 5 (program header, dynamic section).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

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
