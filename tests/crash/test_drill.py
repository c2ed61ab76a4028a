"""The kill drill itself, with one seed that kills services and one that kills the whole tree first."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import drill

pytestmark = pytest.mark.long


def test_two_seeds_lose_double_and_change_nothing(capsys):
    assert drill.main(2) == 0
    said = capsys.readouterr().out
    assert said.count("| 12 of 12 |") == 2 and "1 tree" in said
