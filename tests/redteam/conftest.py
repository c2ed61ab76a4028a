"""Makes the parts that tests share importable as `trialkit` (the runner's) and `attackkit`, and keeps litellm from asking the network."""

import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "trials"), str(Path(__file__).resolve().parent)]
