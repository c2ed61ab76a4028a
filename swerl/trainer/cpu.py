"""The CPU as a verl platform and as a vLLM device that accepts weight updates. Used only when ``infrastructure.device`` is ``cpu``.

verl has a registry for hardware platforms and imports the modules named in ``VERL_USE_EXTERNAL_MODULES``; vLLM calls the entry points of
the group ``vllm.general_plugins`` in each of its processes. Both are their official hooks; no file of theirs is changed. What CPU training
needs beyond the platform class is one default argument (`_process_group_backend`) and one vLLM switch (`configure_vllm`).
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def wanted() -> bool:
    """True in processes of a run on the CPU."""
    return os.environ.get("VERL_PLATFORM") == "cpu"


def configure_vllm() -> None:
    """Keep ``weight`` tensors in place on the CPU engine. Called by vLLM in every process before the model is built.

    With oneDNN, vLLM replaces each linear layer's weight by a packed copy and leaves an empty tensor behind, so that the next weight
    update fails with "Attempted to load weight [..] into parameter [0]". Without it the plain linear kernel runs and updates work.
    """
    if not wanted():
        return
    import vllm._custom_ops as ops

    if not hasattr(ops, "_supports_onednn"):
        raise RuntimeError("vllm._custom_ops has no _supports_onednn: this vLLM packs weights some other way; weight updates are untested")
    ops._supports_onednn = False


def register_platform() -> None:
    """Register the platform ``cpu`` with verl and choose gloo for its process groups."""
    import psutil
    import torch
    import verl.utils.distributed as verl_distributed
    from verl.plugin.platform import PlatformBase, PlatformRegistry

    def resident_bytes(*_: Any, **__: Any) -> int:
        return psutil.Process().memory_info().rss

    def device_module() -> types.ModuleType:
        """``torch.cpu`` with the memory and random-state functions that verl calls on ``torch.cuda``."""
        module = types.ModuleType("swerl_cpu_device")
        for name in dir(torch.cpu):
            if not name.startswith("_"):
                setattr(module, name, getattr(torch.cpu, name))
        nothing = lambda *_, **__: None  # noqa: E731  (one word for six no-ops)
        module.empty_cache = module.ipc_collect = module.reset_peak_memory_stats = module.set_device = nothing
        module.memory_allocated = module.memory_reserved = resident_bytes
        module.max_memory_allocated = module.max_memory_reserved = resident_bytes
        module.mem_get_info = lambda *_, **__: (psutil.virtual_memory().available, psutil.virtual_memory().total)
        module.get_rng_state = lambda *_, **__: torch.get_rng_state()
        module.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
        module.manual_seed = module.manual_seed_all = torch.manual_seed
        module.get_device_name = lambda *_, **__: "cpu"
        module.get_device_properties = lambda *_, **__: types.SimpleNamespace(name="cpu", total_memory=psutil.virtual_memory().total)
        module.is_available = lambda: True
        module.device_count = lambda: 1
        return module

    device = device_module()

    @PlatformRegistry.register(platform="cpu")
    class CpuPlatform(PlatformBase):
        """One CPU device per process. Ray still hands out its logical ``GPU`` slots, so placement is the same as on GPUs."""

        device_name = property(lambda self: "cpu")
        vendor_name = property(lambda self: "generic")
        device_module = property(lambda self: device)

        def is_available(self) -> bool:
            return True

        def is_platform_available(self, use_smi_check: bool = False) -> bool:
            return False  # chosen by VERL_PLATFORM, never detected: a GPU host must not fall back to it

        def current_device(self) -> str:
            return "cpu"  # what torch.cpu.current_device() says; an index would mean cuda:0 to torch.device

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: Any) -> None:
            pass

        def synchronize(self, device_index: Any = None) -> None:
            pass

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        def manual_seed_all(self, seed: int) -> None:
            torch.manual_seed(seed)

        def set_allocator_settings(self, settings: Any) -> None:
            pass

        def empty_cache(self) -> None:
            pass

        def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"

        @contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:
            yield

        def profiler_start(self) -> None:
            pass

        def profiler_stop(self) -> None:
            pass

        def ray_resource_name(self) -> str:
            return "GPU"

        def ray_noset_envvars(self) -> list[str]:
            return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

        def is_ipc_supported(self) -> bool:
            return False  # weights go through /dev/shm instead of CUDA IPC

        def rollout_env_vars(self) -> dict[str, str]:
            return {}

        def cudart(self) -> None:
            return None

    # verl asks torch for "cpu:gloo,cpu:gloo" when the device is the CPU, which torch refuses; one entry is what it means.
    original = verl_distributed.initialize_global_process_group_ray

    def _process_group_backend(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    verl_distributed.initialize_global_process_group_ray = _process_group_backend


if wanted():
    register_platform()
