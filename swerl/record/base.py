"""What a checkpoint of adapters stands on: ``actor/base.json`` names the directory of the frozen weights, and what they were.

A checkpoint of adapters is a few megabytes and worth nothing without them; over other weights of the same shape it loads without an error
and is another policy. So they are compared before anything is made of it.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from swerl.record.checkpoints import ends_digest
from swerl.record.rundir import write_atomic

FILE = "base.json"
_DECIDES = ("config.json", "*.safetensors", "pytorch_model*.bin")


def write(actor: Path, base: Path) -> None:
    """Record ``base``, a Hugging Face directory, as what the adapters in ``actor`` were trained on."""
    write_atomic(actor / FILE, orjson.dumps({"path": str(base), "digests": digests(base)}, option=orjson.OPT_INDENT_2))


def of(actor: Path) -> Path | None:
    """The directory the adapters in ``actor`` stand on; None where the checkpoint holds all weights."""
    return Path(orjson.loads((actor / FILE).read_bytes())["path"]) if (actor / FILE).is_file() else None


def fault(actor: Path, base: Path) -> str | None:
    """Why ``base`` is not what the adapters in ``actor`` were trained on, in words."""
    recorded, found = orjson.loads((actor / FILE).read_bytes())["digests"], digests(base)
    wrong = sorted(name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name))
    return f"{base / wrong[0]} is not the file that the adapters were trained on" if wrong else None


def digests(base: Path) -> dict[str, str]:
    """File name -> digest, of every file that decides what the weights are."""
    return {file.name: ends_digest(file) for pattern in _DECIDES for file in sorted(base.glob(pattern))}
