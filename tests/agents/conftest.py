"""Makes the shared parts of the runner's tests importable, and keeps litellm from asking the network."""

import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1] / "trials")]
