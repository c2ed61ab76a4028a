"""The Ray actor that owns verl's trainer: verl's task runner with our trainers, the bridge, and a check that something was trained."""

from __future__ import annotations

from pprint import pprint
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from swerl.errors import fail


@ray.remote
class TrainerTask:
    """One run of the trainer. `run` returns "completed" or "stopped"."""

    def run(self, config: DictConfig) -> str:
        import transfer_queue as tq
        from verl.utils.logging_utils import configure_verl_logging

        from swerl.trainer import local
        from swerl.trainer.manager import SwerlAgentLoopManager
        from swerl.trainer.modes import StopRequested, trainer_class
        from swerl.trainer.replay import Watch

        configure_verl_logging()
        config.transfer_queue.enable = True
        pprint(OmegaConf.to_container(config, resolve=True))
        OmegaConf.resolve(config)
        local.install()
        tq.init(config.transfer_queue)
        trainer: Any = None
        ended = "failed"
        try:
            trainer = trainer_class(config.trainer.v1.trainer_mode, config.swerl.paths)(config=config)
            trainer.init()
            manager = SwerlAgentLoopManager.create(
                config=config,
                llm_client=trainer.get_llm_client(),
                teacher_client=trainer.get_teacher_client(),
                reward_loop_worker_handles=trainer.get_reward_handles(),
            )
            watch = Watch(manager.check_workers, manager.engine_died, max_failed_groups=max(8, 2 * config.data.train_batch_size))
            trainer.replay_buffer.watch = watch
            events = trainer.run.events_of("bridge")
            trainer.register_engine(manager.start_bridge(trainer.lineage.epoch, eos_token_ids(trainer), config.swerl.bind_host, events))
            try:
                trainer.fit(manager)
                ended = "completed"
            except StopRequested:
                ended = "stopped"
            except Exception as error:  # an update that meets a dead engine fails by whatever call came first
                watch.refuse_dead_engine(error)
                raise
            finally:
                trainer.pause_engine("the trainer is ending")
            if ended == "completed":
                refuse_empty(trainer)
            return ended
        finally:
            try:
                if trainer is not None and trainer.logger is not None:
                    trainer.logger.finish(exit_code=0 if ended != "failed" else 1)
            finally:
                tq.close()


def eos_token_ids(trainer: Any) -> list[int]:
    """Tokens that end a turn: the tokenizer's and those of the model's generation config."""
    from transformers import GenerationConfig

    found = {trainer.tokenizer.eos_token_id}
    listed = GenerationConfig.from_pretrained(trainer.config.actor_rollout_ref.model.path).eos_token_id
    found.update(listed if isinstance(listed, list) else [listed])
    return sorted(token for token in found if token is not None)


def refuse_empty(trainer: Any) -> None:
    """verl can report success for a run in which every sample failed; a run that trained no step is an error here."""
    if trainer.trained_steps == 0:
        raise fail(
            "SWERL-R113",
            "the run ended without training a step",
            "look at trials/ and events/ of the run for the first failed trial; check training.total_steps and the index",
        )
