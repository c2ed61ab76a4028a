"""The known name a mistyped one most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean `x`?`` for the nearest of ``known``, or nothing when none is near.

    A leaf typed under the wrong section is found by its own name.
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not near:
        leaf = name.rpartition(".")[2]
        by_leaf = {k.rpartition(".")[2]: k for k in reversed(known)}
        near = [by_leaf[m] for m in difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.75)]
    return f"; did you mean `{near[0]}`?" if near else ""
