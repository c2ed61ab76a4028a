"""From an order to a supervised evaluation: directory, processes, outcome.

The processes are those of a training run with another engine and another end: vLLM (or nothing, when a URL is given), gateway, runner, and
the driver in the trainer's place. The supervisor starts a service again that died, and ends all of them whatever happens.
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swerl.config import RunConfig
from swerl.config.schema import keys
from swerl.errors import fail
from swerl.evaluate import order
from swerl.evaluate.drive import RESULTS
from swerl.evaluate.order import Order
from swerl.record.rundir import RunDir, read_json
from swerl.render import public_environment, runner_environment
from swerl.runs.display import Display
from swerl.runs.launch import set_aside
from swerl.runs.plan import Plan, ProcessSpec
from swerl.runs.prepare import prepare
from swerl.runs.supervisor import Outcome, Supervisor
from swerl.runs.takeover import taken

ENGINE_READY_S = 1800.0  # weights of many gigabytes over a network, and compilation
UPSTREAM_KEYS = ("SWERL_UPSTREAM_API_KEY", "OPENAI_API_KEY")


def plan_for(config: RunConfig, run: RunDir, asked: Order) -> Plan:
    """Secrets of the configuration reach none of these processes; an upstream's key reaches the process that speaks to it."""
    train, trials = config.environment.venv_path / "bin" / "python", config.environment.trials_venv_path / "bin" / "python"
    for python in (train, trials):
        if not python.exists():
            raise fail("SWERL-R018", "there is no Python environment here", "make setup", where=str(python.parent.parent))
    without: Mapping[str, str | None] = {key.env: None for key in keys().values() if key.secret and key.env}
    without = {"PYTHONUNBUFFERED": "1", **without}
    silent = {**without, **dict.fromkeys(UPSTREAM_KEYS)}

    def spec(name: str, python: Path, module: str, env: Mapping[str, str | None], *options: str, **rest: Any) -> ProcessSpec:
        argv = (str(python), "-P", "-m", module, "--run-dir", str(run.root), *options)
        return ProcessSpec(name, argv, run.log_of(name), env, cwd=run.root, **rest)

    health: dict[str, Any] = {"url_key": "public_url", "health_path": "/health/liveliness"}
    if asked.upstream is not None:
        front = [spec("gateway", train, "swerl.evaluate.upstream", without, **health)]
    else:
        engine_env = {**silent, **public_environment(config, run)}
        url = f"http://127.0.0.1:{asked.engine_port}"
        front = [
            spec(
                "engine", train, "swerl.evaluate.engine", engine_env, url_key="url", health_path="/health", ready_timeout_s=ENGINE_READY_S
            ),
            spec("gateway", train, "swerl.gateway", silent, "--engine-url", url, **health),
        ]
    runner = spec("runner", trials, "swerl.trials", {**silent, **runner_environment(config)}, url_key="url", health_path="/stats")
    driver = spec("evaluation", train, "swerl.evaluate", silent, stop_grace_s=5.0)
    return Plan(services=(*front, runner), trainer=driver, trains=False)


def evaluate(
    config: RunConfig,
    asked: Order,
    display: Callable[[], Display],
    *,
    fresh: bool = False,
    plan: Callable[[RunConfig, RunDir, Order], Plan] = plan_for,
    notice: Callable[[str], None] = print,
) -> tuple[Outcome | None, dict[str, Any] | None]:
    """Carry the order out in ``config.run_dir``, from wherever that stands. (None, results) when it was carried out before."""
    run = RunDir.at(config.run_dir)
    if fresh and (aside := set_aside(run)):
        notice(f"the earlier evaluation of this name is now {aside}")
    with taken(run) as held:
        before = read_json(run.root / RESULTS)
        if before is not None and before["order"] == asked.digest:
            return None, before
        (run.root / RESULTS).unlink(missing_ok=True)
        prepared = held.registry.prepare(run.id, config.digest)
        prepare(config, run, attempt=prepared.attempt + 1, command=sys.argv)
        asked.write(run)
        screen = display()
        try:
            outcome = Supervisor(run, held.registry, plan(config, run, asked), screen).run()
        finally:
            screen.close()
    return outcome, read_json(run.root / RESULTS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def ask_upstream(url: str, api_key: str, timeout_s: float = 10.0) -> None:
    """SWERL-T063 unless ``GET <url>/models`` answers: better said now than by every trial."""
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("GET", address.path.rstrip("/") + "/models", headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        status = connection.getresponse().status
        said = "" if status < 400 else f"answers {status} to GET /models"
    except (OSError, http.client.HTTPException) as error:
        said = f"does not answer: {error}"
    finally:
        connection.close()
    if said:
        raise fail(
            "SWERL-T063",
            f"the server {said}",
            f"give the address that ends in /v1, and its key in {UPSTREAM_KEYS[0]}; or start the server",
            url,
        )


__all__ = ["Order", "ask_upstream", "evaluate", "free_port", "is_free", "order", "plan_for"]
