"""Makes the parts that tests share importable as `trialkit` (the runner's) and `attackkit`, and keeps litellm from asking the network."""

import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "trials"), str(Path(__file__).resolve().parent)]


def pytest_terminal_summary(terminalreporter):
    """Reward and findings of every agent that was played: `make test TESTS=redteam` ends with it."""
    from attackkit import PLAYED

    for test, reward, outcome, kinds in PLAYED:
        told = test.replace("nothing_is_paid_for_a_verdict_of_ones_own", "").strip("[]").replace("_", " ")
        terminalreporter.write_line(
            f"{told[:76]:76} {'-' if reward is None else f'{reward:.1f}':>4}  {outcome:12} {', '.join(kinds) or '-'}"
        )
