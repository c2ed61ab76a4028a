"""Several machines, one Ray cluster: the run's first process when ``infrastructure.nnodes`` is more than 1.

On the head (``python -m swerl.runs.cluster --run-dir DIR``, started by the supervisor): start Ray, say for each other node the one command
to give there, wait for all of them until ``infrastructure.join_timeout_sec``, have each checked by preflight where it is, and only then
answer that the cluster is up: the trainer meets all nodes, or the run ends with the names of those that are missing. Afterwards say when a
node is lost (event ``cluster.lost``; the watchdog ends the run). On the others (``swerl node DIR --rank N``): preflight, then Ray.

Ray refuses clients without its token. The run's own token is used, in a file (0600) of the run directory, which every node sees.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swerl.config import RunConfig, load_resolved
from swerl.errors import Problem, SwerlError, fail
from swerl.record.events import EventLog
from swerl.record.rundir import RunDir, write_atomic
from swerl.record.services import announce
from swerl.render import process_environment
from swerl.render.ray import ray_head, ray_join

LOOK_S = 1.0
CONNECT_S = 120.0  # for Ray's own head to answer on a busy machine
CHECK_S = 300.0
# What a further node must have for itself. Ports, tasks, sandboxes and gateway are the head's.
NODE_CHECKS = (
    *("SWERL-P101", "SWERL-P104", "SWERL-P601", "SWERL-P602", "SWERL-P603", "SWERL-P704", "SWERL-P706", "SWERL-P707"),
    *("SWERL-P709", "SWERL-P710", "SWERL-P802", "SWERL-P803", "SWERL-P804"),
)


def token_path(run: RunDir) -> Path:
    return run.root / "ray.token"


def environment(config: RunConfig, run: RunDir) -> dict[str, str]:
    """Variables of every process that belongs to the cluster, on every node: Ray's workers inherit them."""
    if not token_path(run).exists():
        token = run.token.read_text().strip().rpartition("-")[2]
        write_atomic(token_path(run), token.encode(), mode=0o600)
    return {**process_environment(config, run), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path(run))}


def given_by_kubernetes(env: Mapping[str, str]) -> bool:
    """KubeRay makes the cluster itself, and its pods join by themselves."""
    return "KUBERAY_GEN_RAY_START_CMD" in env


def resource(rank: int) -> str:
    """A Ray resource that only this node has: how it is known, and how a check gets there."""
    return f"swerl-node-{rank}"


def join_command(run: RunDir, config: RunConfig, rank: int) -> str:
    """What to give on node ``rank``; the run directory is on a disk that all nodes see."""
    program = config.environment.venv_path / "bin" / "swerl"
    return shlex.join([str(program), "node", str(run.root), "--rank", str(rank)])


# A further node


def node_problems(config: RunConfig) -> list[Problem]:
    """What preflight says of the machine this runs on, as one node of several."""
    from swerl.preflight import run as run_preflight

    report = run_preflight(config, only=NODE_CHECKS)
    return [*report.fatal, *report.warnings]


def join(run: RunDir, config: RunConfig, rank: int, ip: str | None) -> None:
    """Become this node's Ray, for as long as the head lives. Does not return."""
    run.create_scratch()
    command = [*ray_join(config), "--block", "--disable-usage-stats", f"--resources={json.dumps({resource(rank): 1})}"]
    command.append(f"--node-ip-address={ip or address_towards(config.infrastructure.node0_ip)}")
    env = {**os.environ, **environment(config, run)}
    os.execve(command[0], command, env)


def address_towards(host: str) -> str:
    """This machine's address on the way to ``host``. Ray itself asks for the way to a name server of the internet, which a node of a closed
    network does not have. No packet is sent."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError as error:
            message = f"there is no way to the head at {host}: {error.strerror}"
            raise fail("SWERL-R047", message, "mend the network, or name this node's address with --ip") from error
        return probe.getsockname()[0]


# The head


class Head:
    """Ray's head process and what is known of the nodes."""

    def __init__(self, run: RunDir):
        self.run, self.config = run, load_resolved(run.resolved)
        self.events = EventLog(run.events_of("cluster"), "cluster")
        self.up = False
        self._ray: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        machines = self.config.infrastructure
        if not machines.node0_ip:
            message = "several nodes need the address of this one"
            raise fail("SWERL-R041", message, "set infrastructure.node0_ip to this host's address in the nodes' network")
        return f"{machines.node0_ip}:{machines.ray_port}"

    def start(self) -> None:
        """Start Ray and connect to it."""
        address = self.address
        os.environ.update(environment(self.config, self.run))  # before Ray is imported: it reads how to show its token then
        import ray

        self.run.create_scratch()  # before Ray makes its folder in it, with rights of its own choice
        self._ray = subprocess.Popen([*ray_head(self.config, self.run), "--block", "--disable-usage-stats"])
        deadline = time.monotonic() + CONNECT_S
        while True:
            if self._ray.poll() is not None:
                raise fail("SWERL-R042", f"Ray's head ended with exit code {self._ray.returncode}", "its message stands above", address)
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error")
                return
            except ConnectionError as error:
                if time.monotonic() > deadline:
                    raise fail("SWERL-R042", f"Ray's head does not answer: {error}", "its message stands above", address) from error

    def wait(self) -> None:
        """Until every node is there; SWERL-R043 with the commands of those that are missing."""
        ranks = range(1, self.config.infrastructure.nnodes)
        commands = {rank: join_command(self.run, self.config, rank) for rank in ranks}
        for rank, command in commands.items():
            print(f"on node {rank}: {command}", flush=True)
            self.events.emit("cluster.waiting", durable=True, rank=rank, of=len(ranks), command=command)
        seconds = self.config.infrastructure.join_timeout_sec
        deadline, known = time.monotonic() + seconds, set()
        while missing := [rank for rank in ranks if rank not in known]:
            for rank, node in self.nodes().items():
                if rank not in known:
                    known.add(rank)
                    self.events.emit("cluster.joined", durable=True, rank=rank, address=node["NodeManagerAddress"])
            if time.monotonic() > deadline and missing:
                told = "; ".join(f"on node {rank}: {commands[rank]}" for rank in missing)
                raise fail("SWERL-R043", f"{len(missing)} of {len(commands)} nodes have not joined within {seconds} s", told, self.address)
            time.sleep(LOOK_S)

    def check(self) -> None:
        """Preflight where the nodes are; SWERL-R044 with what is fatal there."""
        import ray

        look = ray.remote(_problems_here)
        asked = {rank: look.options(num_cpus=0, resources={resource(rank): 0.01}).remote(str(self.run.root)) for rank in self.nodes()}
        fatal: list[Problem] = []
        for rank, answer in asked.items():
            problems = [Problem(**fields) for fields in ray.get(answer, timeout=CHECK_S)]
            self.events.emit("cluster.checked", durable=True, rank=rank, problems=[str(p) for p in problems])
            for problem in problems:
                print(f"node {rank}: {problem.severity}: {problem}", flush=True)
            refused = [p for p in problems if p.severity == "fatal"]
            fatal += [Problem("SWERL-R044", f"node {rank}: {p.id}: {p.message}", p.remedy, p.where) for p in refused]
        if fatal:
            raise SwerlError(*fatal)

    def watch(self) -> int:
        """While the run lasts: say which node is lost. Ends with Ray."""
        assert self._ray is not None
        there = set(self.nodes())
        while self._ray.poll() is None:
            lost = there - set(self.nodes())
            for rank in sorted(lost):
                self.events.emit("cluster.lost", durable=True, rank=rank)
            there -= lost
            time.sleep(LOOK_S)
        return self._ray.returncode

    def nodes(self) -> dict[int, Mapping[str, Any]]:
        """Living nodes by rank, the head not among them."""
        import ray

        prefix = resource(0)[:-1]
        found = {}
        for node in ray.nodes():
            for name in node["Resources"] if node["Alive"] else ():
                if name.startswith(prefix):
                    found[int(name.removeprefix(prefix))] = node
        return found

    def stop(self) -> None:
        if self._ray is not None and self._ray.poll() is None:
            self._ray.terminate()

    def serve(self) -> None:
        """Answer the supervisor whether the cluster is up."""
        head = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if head.up else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
        announce(self.run.services, "cluster", {"url": f"http://127.0.0.1:{server.server_port}"})


def _problems_here(root: str) -> list[dict[str, str]]:
    """Runs on a node, as a task of Ray."""
    from dataclasses import asdict

    return [asdict(problem) for problem in node_problems(load_resolved(RunDir.at(root).resolved))]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m swerl.runs.cluster")
    parser.add_argument("--run-dir", required=True)
    head = Head(RunDir.at(parser.parse_args(arguments).run_dir))
    signal.signal(signal.SIGTERM, lambda *_: head.stop())
    try:
        head.serve()
        head.start()
        head.wait()
        head.check()
        head.up = True
        head.events.emit("cluster.ready", durable=True, nodes=head.config.infrastructure.nnodes)
        return head.watch()
    except SwerlError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        head.stop()
        head.events.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
