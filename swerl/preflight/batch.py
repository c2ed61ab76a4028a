"""Family `batch`: how prompts, samples, ranks and tokens divide. Nothing here looks at a machine."""

from __future__ import annotations

from collections.abc import Iterator

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context


class LengthsFit(Check):
    id = "SWERL-P201"
    family = "batch"
    title = "prompt and response"
    asks = "the longest prompt and the longest response together fit the engine's window"
    remedy = "raise vllm.max_model_length, or lower training.max_prompt_length or training.max_response_length"

    def run(self, ctx: Context) -> Iterator[Finding]:
        training, window = ctx.cfg.training, ctx.cfg.vllm.max_model_length
        total = training.max_prompt_length + training.max_response_length
        sum_text = f"{training.max_prompt_length:,} + {training.max_response_length:,} = {total:,}"
        if total > window:
            yield self.found(f"{sum_text} tokens, but vllm.max_model_length is {window:,}", ctx.source("vllm.max_model_length"))
        yield Fact(f"{sum_text} of {window:,} tokens")


class BatchDivides(Check):
    id = "SWERL-P202"
    family = "batch"
    title = "trials a step"
    asks = "a step's trials divide over the ranks, into mini-batches, and (without dynamic batches) into micro-batches"
    remedy = "change the number named so that it divides"

    def run(self, ctx: Context) -> Iterator[Finding]:
        training = ctx.cfg.training
        prompts, samples, mini = training.train_batch_size, training.n_resp_per_prompt, training.train_prompt_mini_batch_size
        trials, mini_trials = prompts * samples, mini * samples
        where = ctx.source("training.train_prompt_mini_batch_size")
        if mini > prompts:
            yield self.found(f"train_prompt_mini_batch_size {mini} exceeds train_batch_size {prompts}", where)
        elif prompts % mini:
            yield self.found(f"train_prompt_mini_batch_size {mini} does not divide train_batch_size {prompts}", where)
        if ctx.gpus % training.sp_size:
            yield self.found(f"sp_size {training.sp_size} does not divide the {ctx.gpus} GPUs", ctx.source("training.sp_size"))
            return
        ranks = ctx.gpus // training.sp_size
        if trials % ctx.gpus:
            place = ctx.source("training.train_batch_size")
            yield self.found(f"{prompts} x {samples} = {trials} trials a step do not divide by {ctx.gpus} GPUs", place)
        if mini_trials % ranks:
            yield self.found(f"{mini} x {samples} = {mini_trials} trials a mini-batch do not divide by {ranks} data-parallel ranks", where)
        elif not training.use_dynamic_bsz:
            yield from self._micro(ctx, mini_trials // ranks, trials // ranks)
        yield Fact(
            f"{prompts} x {samples} = {trials} trials a step, {-(-prompts // mini)} optimizer step(s) of {mini_trials} on {ranks} rank(s)"
        )

    def _micro(self, ctx: Context, per_rank: int, whole: int) -> Iterator[Finding]:
        """verl pads a step's rows to a multiple of the mini-batch, so a step with absent groups can be as short as one mini-batch."""
        training = ctx.cfg.training
        infer = training.log_prob_micro_batch_size_per_gpu
        if per_rank % training.micro_batch_size_per_gpu:
            yield self.found(
                f"{per_rank} trials a rank and mini-batch do not divide by micro_batch_size_per_gpu {training.micro_batch_size_per_gpu};"
                " verl would stop at the first update",
                ctx.source("training.micro_batch_size_per_gpu"),
            )
        place = ctx.source("training.log_prob_micro_batch_size_per_gpu")
        if whole % infer:
            yield self.found(f"{whole} trials a rank do not divide by log_prob_micro_batch_size_per_gpu {infer}", place)
        elif per_rank % infer and ctx.cfg.capture.paths == "main":  # with all paths, the trainer pads to this size itself
            yield self.found(
                f"a step shortened by absent groups to one mini-batch ({per_rank} trials a rank) would not divide by"
                f" log_prob_micro_batch_size_per_gpu {infer}",
                place,
                remedy=f"set training.log_prob_micro_batch_size_per_gpu to a divisor of {per_rank}",
                severity="warning",
            )


class SequenceFitsRank(Check):
    id = "SWERL-P203"
    family = "batch"
    title = "token budget of a rank"
    asks = "with dynamic batches, the longest trial fits the token budget of the ranks that share it"
    remedy = "leave training.max_token_len_per_gpu empty (it becomes prompt + response over sp_size), or raise it"

    def run(self, ctx: Context) -> Iterator[Finding]:
        training = ctx.cfg.training
        if not training.use_dynamic_bsz:
            raise NotApplicable("training.use_dynamic_bsz is off")
        longest = training.max_prompt_length + training.max_response_length
        budget = training.max_token_len_per_gpu * training.sp_size
        if budget < longest:
            yield self.found(
                f"max_token_len_per_gpu {training.max_token_len_per_gpu:,} x sp_size {training.sp_size} = {budget:,} tokens"
                f" hold no trial of {longest:,}",
                ctx.source("training.max_token_len_per_gpu"),
            )
        yield Fact(f"{training.max_token_len_per_gpu:,} tokens a rank")


_COMPARING = (
    "grpo",
    "gdpo",
    "rloo",
    "opo",
    "gpg",
    "reinforce_plus_plus_baseline",
)  # names of estimators that look at the others of a group


class GroupsCanLearn(Check):
    id = "SWERL-P204"
    family = "batch"
    title = "group size"
    asks = "the advantage estimator has more than one sample of each prompt where it compares samples"
    remedy = "set training.n_resp_per_prompt to 2 or more (8 is usual)"
    faults = (52,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        estimator, samples = ctx.cfg.algorithm.adv_estimator, ctx.cfg.training.n_resp_per_prompt
        if samples == 1 and estimator.startswith(_COMPARING):
            yield self.found(f"{estimator} with one sample a prompt: every advantage is 0", ctx.source("training.n_resp_per_prompt"))
        elif samples == 1 and ctx.cfg.algorithm.rollout_correction.rollout_is != "token":
            yield self.found(
                f"{estimator} with one sample a prompt and no token-level importance weights collapses easily",
                ctx.source("algorithm.rollout_correction.rollout_is"),
                remedy="set algorithm.rollout_correction.rollout_is: token",
                severity="warning",
            )
        yield Fact(f"{estimator}, {samples} samples a prompt")


CHECKS = (LengthsFit(), BatchDivides(), SequenceFitsRank(), GroupsCanLearn())
