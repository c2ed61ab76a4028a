"""Family `training`: settings that start well and then do not learn, or learn something else."""

from __future__ import annotations

from collections.abc import Iterator

from swerl.facts.memory import ASSUMED_GPU_BYTES, forecast
from swerl.facts.plan import plan_of
from swerl.forecast.outlook import outlook
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

LONG_RESPONSE_TOKENS = 4096
_FLASH = {"flash_attention_4", "flash_attention_2"}


class LearningRateLives(Check):
    id = "SWERL-P301"
    family = "training"
    title = "learning rate"
    asks = "the learning rate is not 0, and its schedule does not bring it to 0 before the run is over"
    remedy = (
        "set algorithm.learning_rate above 0 and training.lr_scheduler: constant, or give training.total_steps for the schedule to end at"
    )
    faults = (27,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        cfg, where = ctx.cfg, ctx.source("training.lr_scheduler")
        rate, warmup, steps = cfg.algorithm.learning_rate, cfg.algorithm.lr_warmup_steps, ctx.steps()
        if rate == 0:
            place = ctx.source("algorithm.learning_rate")
            yield self.found(
                "algorithm.learning_rate is 0: nothing is learned", place, severity="warning", remedy="fine for a control run only"
            )
        if cfg.training.lr_scheduler == "cosine" and cfg.training.total_steps is None:
            yield self.found("a cosine schedule without training.total_steps: verl reads -1 steps and trains at rate 0", where)
        elif cfg.training.lr_scheduler == "cosine":
            yield self.found(f"the cosine schedule reaches rate 0 at the last of {steps} steps", where, severity="note")
        if steps is not None and warmup >= steps:
            yield self.found(
                f"lr_warmup_steps {warmup} last as long as the whole run of {steps} steps",
                ctx.source("algorithm.lr_warmup_steps"),
                severity="warning",
                remedy="shorten algorithm.lr_warmup_steps",
            )
        yield Fact(f"{rate:g}, {cfg.training.lr_scheduler}" + (f", {warmup} steps of warm-up" if warmup else ""))


class SequenceParallelKernel(Check):
    id = "SWERL-P302"
    family = "training"
    title = "sequence parallelism"
    asks = "training.sp_size above 1 comes with flash attention and remove-padding, which are all that verl splits, and divides the heads"
    remedy = "set training.attention: flash_attention_4 and training.use_remove_padding: true, or training.sp_size: 1"

    def run(self, ctx: Context) -> Iterator[Finding]:
        training = ctx.cfg.training
        if training.sp_size == 1:
            raise NotApplicable("training.sp_size is 1")
        where = ctx.source("training.sp_size")
        if training.attention not in _FLASH or not training.use_remove_padding:
            used = f"{training.attention}, use_remove_padding {str(training.use_remove_padding).lower()}"
            yield self.found(f"sp_size {training.sp_size} with {used}: verl computes attention over parts without an error", where)
        shape = ctx.shape()
        if shape.heads % training.sp_size or (shape.kv_heads % training.sp_size and training.sp_size % shape.kv_heads):
            yield self.found(
                f"sp_size {training.sp_size} does not divide {shape.heads} heads and {shape.kv_heads} KV heads",
                where,
                remedy="set training.sp_size to a divisor of the attention heads",
            )
        if shape.is_hybrid:
            yield self.found(
                f"sp_size {training.sp_size} with linear-attention layers: verl splits the flash path only",
                where,
                remedy="set training.sp_size: 1",
            )
        yield Fact(f"{training.sp_size} over {training.attention}")


class ImportanceWeights(Check):
    id = "SWERL-P303"
    family = "training"
    title = "importance weights"
    asks = (
        "importance weights are taken per token where responses are long (a product over thousands of tokens leaves no effective sample),"
        " and neither weights nor rejection are asked for beside bypass_mode, which leaves both out"
    )
    remedy = "set algorithm.rollout_correction.rollout_is to token, or to null"
    severity = "fatal"
    faults = (28,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        correction, tokens = ctx.cfg.algorithm.rollout_correction, ctx.cfg.training.max_response_length
        asked = [name for name in ("rollout_is", "rollout_rs") if getattr(correction, name) is not None]
        if correction.bypass_mode and asked:
            named = " and ".join(f"{name}: {getattr(correction, name)}" for name in asked)
            yield self.found(
                f"{named} beside bypass_mode: verl then computes neither weights nor rejection, and nothing is corrected",
                ctx.source("algorithm.rollout_correction.bypass_mode"),
                remedy=f"set algorithm.rollout_correction.bypass_mode: false, or {' and '.join(asked)} to null",
            )
        elif correction.rollout_is == "sequence" and tokens >= LONG_RESPONSE_TOKENS:
            place = ctx.source("algorithm.rollout_correction.rollout_is")
            yield self.found(f"rollout_is: sequence over responses of up to {tokens:,} tokens", place, severity="warning")
        yield Fact("none" if correction.bypass_mode or not asked else ", ".join(getattr(correction, name) for name in asked))


class KlSettings(Check):
    id = "SWERL-P304"
    family = "training"
    title = "KL loss"
    asks = "the KL loss has a coefficient when it is on; it loads a reference policy, which costs memory and a pass"
    remedy = "set algorithm.kl_loss_coef above 0, or algorithm.use_kl_loss: false"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        algorithm = ctx.cfg.algorithm
        if algorithm.use_kl_loss and algorithm.kl_loss_coef == 0:
            yield self.found(
                "use_kl_loss with kl_loss_coef 0: a reference policy is loaded for nothing", ctx.source("algorithm.kl_loss_coef")
            )
        yield Fact(f"{algorithm.kl_loss_type} x {algorithm.kl_loss_coef:g}" if algorithm.use_kl_loss else "off")


class SamplingAgrees(Check):
    id = "SWERL-P305"
    family = "training"
    title = "sampling"
    asks = "agents are told the temperature that the engine samples with, and training samples from the whole distribution"
    remedy = "set harbor_agent.temperature to algorithm.temperature; sample training with temperature 1, top_p 1, top_k -1"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        algorithm, agent = ctx.cfg.algorithm, ctx.cfg.harbor_agent
        if agent.temperature != algorithm.temperature:
            yield self.found(
                f"harbor_agent.temperature {agent.temperature:g}, algorithm.temperature {algorithm.temperature:g}",
                ctx.source("harbor_agent.temperature"),
            )
        if algorithm.top_p < 1 or algorithm.top_k not in (-1, 0):
            yield self.found(
                f"top_p {algorithm.top_p:g}, top_k {algorithm.top_k}: the engine samples from a cut distribution,"
                " which the trainer does not see",
                ctx.source("algorithm.top_p"),
            )
        yield Fact(f"temperature {algorithm.temperature:g}, top_p {algorithm.top_p:g}, top_k {algorithm.top_k}")


class TailKillSparesGroups(Check):
    id = "SWERL-P306"
    family = "training"
    title = "tail-kill"
    asks = "the tail-killer leaves groups that can still be compared, and can act at all"
    remedy = "raise harbor_runtime.tail_kill_target (1.0 is off), or lower tail_kill_min_tasks below the trials of a step"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        runtime, training = ctx.cfg.harbor_runtime, ctx.cfg.training
        if runtime.tail_kill_target >= 1:
            raise NotApplicable("off (harbor_runtime.tail_kill_target is 1.0)")
        trials = training.train_batch_size * training.n_resp_per_prompt
        where = ctx.source("harbor_runtime.tail_kill_target")
        killed = trials - int(trials * runtime.tail_kill_target)
        if killed >= training.n_resp_per_prompt * max(1, training.train_batch_size // 2):
            yield self.found(f"up to {killed} of {trials} trials a step may be killed: whole groups can be lost", where)
        if runtime.tail_kill_min_tasks > trials:
            yield self.found(
                f"tail_kill_min_tasks {runtime.tail_kill_min_tasks} exceeds the {trials} trials of a step: it never acts", where
            )
        yield Fact(f"at {runtime.tail_kill_target:.0%} of {trials} trials, after {runtime.tail_kill_grace_sec} s")


class SavesAndTests(Check):
    id = "SWERL-P307"
    family = "training"
    title = "saving and validating"
    asks = "the run saves what it learns and validates, within the steps it has"
    remedy = "lower training.save_freq, or set training.test_freq above 0"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        training, steps = ctx.cfg.training, ctx.steps()
        if steps is not None and training.save_freq > steps:
            yield self.found(
                f"save_freq {training.save_freq} is beyond the {steps} steps of the run: only the last step is saved",
                ctx.source("training.save_freq"),
            )
        if training.test_freq <= 0 and not training.val_before_train:
            yield self.found("training.test_freq is off: nothing will be validated", ctx.source("training.test_freq"))
        length = "unknown number of" if steps is None else f"{steps}"
        yield Fact(f"{length} steps, saved every {training.save_freq}, validated every {training.test_freq}")


class WatchdogHasPatience(Check):
    id = "SWERL-P309"
    family = "training"
    title = "limits of the watchdog"
    asks = "the watchdog does not take a long update for a hang: watch.phase_min leaves room for the longest that the forecast sees"
    remedy = "raise watch.phase_min (minutes), or shorten the update: the forecast says by which settings"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        limit = ctx.cfg.watch.phase_min
        if ctx.cfg.watch.actions.get("SWERL-W504") == "off":
            raise NotApplicable("watch.actions turns SWERL-W504 off")
        memory = None if ctx.on_cpu else ASSUMED_GPU_BYTES  # time does not depend on it here
        phases = outlook(forecast(ctx.shape(), plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=memory))).high.step.phases
        minutes = (phases["old_log_prob"] + phases["update_actor"] + phases["update_weights"]) / 60
        if minutes > limit:
            where = ctx.source("watch.phase_min")
            yield self.found(f"an update may take {minutes:.0f} minutes, the run is stopped as hung after {limit:g}", where)
        yield Fact(f"an update of up to {minutes:.0f} minutes, {limit:g} allowed")


class EngineSwitches(Check):
    id = "SWERL-P308"
    family = "training"
    title = "engine switches"
    asks = "verl_overrides names no combination of engine and switches that is known to fail"
    remedy = "drop the switch named from verl_overrides"
    faults = (33, 36)

    def run(self, ctx: Context) -> Iterator[Finding]:
        overrides = ctx.cfg.verl_overrides
        strategies = {k: str(v) for k, v in overrides.items() if k.endswith(".strategy")}
        if "veomni" in strategies.values():
            for switch in ("use_fused_kernels", "enable_activation_offload"):
                for key, value in overrides.items():
                    if key.endswith(switch) and str(value).lower() == "true":
                        yield self.found(f"{key} with the veomni engine fails with a storage of size 0", "verl_overrides")
        for key, strategy in strategies.items():
            if strategy not in _ENGINES:
                text = f"{key}={strategy}: that engine is not installed, and what is rendered is FSDP's configuration"
                yield self.found(text, ctx.source(f"verl_overrides.{key}"), remedy=f"remove it, or write {' or '.join(_ENGINES)}")
        kinds = {k: v for k, v in strategies.items() if v in _ENGINES}
        if len(set(kinds.values())) > 1:
            named = ", ".join(f"{k}={v}" for k, v in sorted(kinds.items()))
            yield self.found(
                f"{named}: FSDP1 and FSDP2 name their state differently", "verl_overrides", remedy="use one of the two everywhere"
            )


_ENGINES = ("fsdp2", "fsdp")


class BranchesAreWeighed(Check):
    id = "SWERL-P310"
    family = "training"
    title = "every path of a trial"
    asks = "with capture.paths: all, the loss is one in which a trial weighs the same whatever its number of paths"
    remedy = "set capture.paths: main, or the setting named as it says"

    def run(self, ctx: Context) -> Iterator[Finding]:
        algorithm = ctx.cfg.algorithm
        if ctx.cfg.capture.paths != "all":
            raise NotApplicable("capture.paths is main")
        for name, good in (
            ("adv_estimator", "grpo"),
            ("loss_agg_mode", "seq-mean-token-mean"),
            ("use_kl_loss", False),
            ("entropy_coeff", 0),
        ):
            if (value := getattr(algorithm, name)) != good:
                wanted = str(good).lower()
                place = ctx.source(f"algorithm.{name}")
                yield self.found(f"capture.paths: all needs algorithm.{name}: {wanted}; it is {str(value).lower()}", place)
        yield Fact("each trial weighs the same")


CHECKS = (
    LearningRateLives(),
    SequenceParallelKernel(),
    ImportanceWeights(),
    KlSettings(),
    SamplingAgrees(),
    TailKillSparesGroups(),
    SavesAndTests(),
    EngineSwitches(),
    WatchdogHasPatience(),
    BranchesAreWeighed(),
)
