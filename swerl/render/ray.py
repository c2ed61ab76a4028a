"""Commands that make one Ray cluster of several machines. A run on one machine starts Ray inside the trainer and needs none of them."""

from __future__ import annotations

from swerl.config.runconfig import RunConfig
from swerl.record.rundir import RunDir


def ray_head(config: RunConfig, run: RunDir) -> list[str]:
    """For the first machine, before the trainer starts."""
    i = config.infrastructure
    return [
        f"{config.environment.venv_path}/bin/ray",
        "start",
        "--head",
        f"--port={i.ray_port}",
        *([f"--node-ip-address={i.node0_ip}"] if i.node0_ip else []),
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={i.ray_dashboard_port}",
        f"--temp-dir={run.ray}",
        *_resources(config),
    ]


def ray_join(config: RunConfig) -> list[str]:
    """For every other machine; ``<head>`` stands for the first one's address where the configuration leaves it open."""
    i = config.infrastructure
    return [
        f"{config.environment.venv_path}/bin/ray",
        "start",
        f"--address={i.node0_ip or '<head>'}:{i.ray_port}",
        *_resources(config),
    ]


def _resources(config: RunConfig) -> list[str]:
    i = config.infrastructure
    return [
        f"--num-gpus={i.ngpus_per_node}",
        *([f"--num-cpus={i.ray_num_cpus}"] if i.ray_num_cpus is not None else []),
        *([f"--object-store-memory={i.object_store_mb * 1_000_000}"] if i.object_store_mb is not None else []),
    ]
