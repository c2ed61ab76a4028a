"""``python -m swerl.cli``: the same as ``swerl``."""

from swerl.cli import main

main()
