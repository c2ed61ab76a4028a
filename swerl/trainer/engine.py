"""verl's FSDP engine as a run uses it: attention is told each micro-batch's packing, log-probabilities come by chunks, and what a step
compiles is among its metrics.

verl imports this module in every worker, before it builds the engine (``actor_rollout_ref.model.external_lib``), and prefers an engine
that is registered for the vendor of the device to one that is registered for the device alone. Nothing of verl's is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.metric import Metric
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from swerl.errors import fail
from swerl.trainer import attention, compiles, logprobs

# Running totals: verl makes one number of a step's updates and takes the greatest where the name says max. `modes` takes the differences.
COUNT, SECONDS = "compiled_max/count", "compiled_max/seconds"


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=["nvidia", "generic"])
class RunEngine(FSDPEngineWithLMHead):
    def __init__(self, *args: Any, **kwargs: Any):
        self._compiles = compiles.counter()
        attention.install()
        super().__init__(*args, **kwargs)

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        if self.model_config.use_fused_kernels:
            logprobs.install(module)
        return module

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        return in_float32(super()._build_lora_module(module))

    def _build_model_optimizer(self) -> None:
        super()._build_model_optimizer()
        if not self.model_config.use_fused_kernels:
            return
        device = get_device_id()
        ids = torch.arange(1, 17, device=device).unsqueeze(0) % self.module.config.get_text_config().vocab_size
        attention.announce(attention.Packing.of(torch.tensor([0, 16], device=device), padding=0))
        with torch.autocast(get_device_name(), dtype=self._autocast_dtype, enabled=self._autocast_dtype != torch.float32):
            off = logprobs.differ_by(self.module, ids)
        if not off <= (1e-4 if self._autocast_dtype == torch.float32 else 0.25):
            raise fail(
                "SWERL-A030",
                f"{type(self.module).__name__}: log-probabilities by chunks differ from its own logits by {off:.3g}",
                "set `verl_overrides: {actor_rollout_ref.model.use_fused_kernels: false}`; logits are then in memory",
            )

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs, outputs = super().prepare_model_inputs(micro_batch)
        packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        attention.announce(attention.Packing.of(micro_batch["input_ids"].offsets(), outputs["pad_size"]) if packed else None)
        return inputs, outputs

    def train_batch(self, data: TensorDict, loss_function: Callable[..., Any]) -> Any:
        """verl's; its metrics hold what this process has compiled so far, for log-probabilities too."""
        output = super().train_batch(data, loss_function)
        total = self._compiles.total()
        output["metrics"] |= {COUNT: Metric("max", float(total.count)), SECONDS: Metric("max", total.seconds)}
        return output


def in_float32(module: torch.nn.Module) -> torch.nn.Module:
    """Adapters in float32 whatever the frozen weights are in, which verl gives them too: a step of Adam is less than bfloat16 can tell
    from nothing. FSDP2 wants one type of the parameters that are trained, and computes in its own."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return module
