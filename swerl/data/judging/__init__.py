"""Parts of a verdict that tasks carry with them, so that they are graded alike by swerl and by Harbor alone.

- ``runner``: runs unittest or pytest inside a sandbox, with sentinels mixed in, and says what came of every test.
- ``sentinels``: copies of tests that must not pass together with their originals.
- ``judge``: the reward of a converted record, from what the runner says.
- ``calls``: calls functions of the code under test; their results are compared where it does not run.

Every module stands alone: it imports only the standard library, works as a script, and runs on the Python of old images (3.6, the
judge too). `text` gives its source.
"""

from pathlib import Path


def text(name: str) -> str:
    """The source of one module, to be put into a task or a sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
