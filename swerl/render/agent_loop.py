"""The file verl builds the agent loop from: a list with one entry, the arguments of `swerl.trainer.rollout.TrialRollout`."""

from __future__ import annotations

import yaml

from swerl.config.runconfig import RunConfig
from swerl.record.rundir import RunDir


def agent_loop(config: RunConfig, run: RunDir) -> str:
    entry = {
        "name": "swerl",
        "_target_": "swerl.trainer.rollout.TrialRollout",
        "services": str(run.services),
        "index_dirs": {"train": str(config.data.train_index.parent), "val": str(config.data.val_index.parent)},
        "max_prompt_length": config.training.max_prompt_length,
        "max_response_length": config.training.max_response_length,
        "overlong": config.reward.overlong,
        "paths": config.capture.paths,
        "reward_fn": config.reward.fn,
    }
    return yaml.safe_dump([entry], sort_keys=False)
