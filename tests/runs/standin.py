"""Stand-in programs for supervisor tests: real processes with the manners of a gateway, a runner and a trainer, in a second.

``drive RUN_DIR STEPS`` is ``swerl train`` without a configuration: it takes the run over and supervises the stand-ins below. What they do
differently is said in environment variables named ``STANDIN_*``.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import psutil

from swerl.errors import SwerlError
from swerl.record.events import EventLog
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir, write_atomic, write_json
from swerl.record.services import announce
from swerl.runs import boot
from swerl.runs.display import PlainDisplay
from swerl.runs.plan import Plan, ProcessSpec
from swerl.runs.supervisor import Supervisor
from swerl.runs.takeover import taken

STEP_S = 0.05


def plan_of(run, steps):
    me = [sys.executable, __file__]
    service = {"url_key": "url", "health_path": "/", "ready_timeout_s": 120.0, "stop_grace_s": 3.0}
    return Plan(
        services=tuple(
            ProcessSpec(name, (*me, "service", str(run.root), name), run.log_of(name), **service) for name in ("gateway", "runner")
        ),
        trainer=ProcessSpec("trainer", (*me, "trainer", str(run.root), str(steps)), run.trainer_log, stop_grace_s=3.0),
        total_steps=int(steps),
        max_restarts=2,
        engine_gone_s=float(os.environ.get("STANDIN_ENGINE_GONE_S", "60")),
        trainer_restarts=int(os.environ.get("STANDIN_RESTARTS", "0")),
        restart_delay_s=0.05,
        sweep_grace_s=0.3,
        tick_s=0.02,
        **watched(),
    )


def watched():
    """What ``STANDIN_WATCH`` (JSON, keys of the configuration) makes of the plan: a watchdog, and somebody to tell."""
    if "STANDIN_WATCH" not in os.environ:
        return {}
    from swerl.config import load
    from swerl.config.schema import PROJECT_ROOT
    from swerl.watch import Terms
    from swerl.watch.notify import Notifier

    sets = {key: json.dumps(value) for key, value in json.loads(os.environ["STANDIN_WATCH"]).items()}
    config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", sets)
    return {"terms": Terms.of(config, total_steps=1000, checkpoint_bytes=0), "notifier": Notifier.of(config)}


def drive(run_dir, steps):
    run = RunDir.at(run_dir)
    boot.QUIET_S = float(os.environ.get("STANDIN_QUIET_S", boot.QUIET_S))
    boot._LOOK_S = min(boot._LOOK_S, boot.QUIET_S / 10)
    with taken(run, sweep_grace_s=0.3) as hold:
        hold.registry.prepare(run.id, "digest")
        run.create()
        write_json(run.manifest, {"run": run.id})
        outcome = Supervisor(run, hold.registry, plan_of(run, steps), PlainDisplay()).run()
    print(outcome.state, outcome.problem or "", flush=True)
    return 130 if outcome.by_signal else 1 if outcome.problem else 0


def launched(runs_dir, *words):
    """``swerl train --profile demo-cpu`` without preflight, with the stand-ins as processes. Words: ``fresh``, or ``key=value``."""
    from swerl.artifacts.provenance import seal_run
    from swerl.config import load
    from swerl.config.schema import PROJECT_ROOT
    from swerl.runs.launch import launch

    sets = dict(word.split("=", 1) for word in words if "=" in word)
    config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", {"experiment.runs_dir": runs_dir, **sets})
    plan = lambda config, run: plan_of(run, config.training.total_steps)  # noqa: E731
    row, outcome = launch(config, PlainDisplay, seal=seal_run, fresh="fresh" in words, plan=plan)
    print(row.id, row.state, row.step, "nothing to do" if outcome is None else outcome.state, flush=True)
    return 0


def service(run_dir, name):
    run = RunDir.at(run_dir)
    if os.environ.get("STANDIN_BROKEN") == name:
        raise RuntimeError(f"{name} has no such port")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    announce(run.services, name, {"url": f"http://127.0.0.1:{server.server_port}", "token": "t"})
    if name == "runner":  # something with a session of its own and no environment, as a sandbox
        sandbox = psutil.Process(subprocess.Popen(["/bin/sleep", "300"], start_new_session=True, env={}).pid)
        left_on_purpose(f"{sandbox.pid} {sandbox.create_time():.2f}")
    server.serve_forever()


def trainer(run_dir, steps):
    run = RunDir.at(run_dir)
    checkpoint = run.checkpoints / "newest"
    restored = int(checkpoint.read_text()) if checkpoint.exists() else 0
    events, metrics = EventLog(run.events_of("trainer"), "trainer"), MetricsLog(run.metrics)
    metrics.resume(restored)
    extra = json.loads(os.environ.get("STANDIN_METRICS", "{}"))
    events.emit("trainer.start", restored_step=restored)
    descendants(run)
    time.sleep(float(os.environ.get("STANDIN_BOOT_S", "0")))
    events.emit("engine.ready", step=restored)
    for step in range(restored + 1, int(steps) + 1):
        if run.stop_request.exists():
            write_atomic(checkpoint, str(step - 1).encode())
            events.emit("run.stopped", step=step - 1)
            return 3
        events.emit("step.begin", step=step)
        time.sleep(STEP_S)
        if os.environ.get("STANDIN_FAIL_AT") == str(step):
            events.emit("trainer.raised", error="MemoryError: no room for the optimizer")
            raise MemoryError("no room for the optimizer")
        if os.environ.get("STANDIN_LOST_AT") == str(step) and not once_lost(run):
            events.emit("engine.died", replica="a:1", cause="its server says that the engine is dead", in_flight=2)
            if os.environ.get("STANDIN_LOST_HANGS"):
                time.sleep(600)  # as an update that waits for a rank that is gone
            print("SWERL-R120 the engine is dead", flush=True)
            return int(os.environ.get("STANDIN_LOST_CODE", "4"))
        if os.environ.get("STANDIN_HANG_AT") == str(step):
            time.sleep(600)  # as a replay buffer whose workers have died
        if os.environ.get("STANDIN_TRAINS_NOTHING"):
            continue
        metrics.append(step, f"L{restored}", {"critic/score/mean": 0.5, "timing_s/step": STEP_S, **extra})
        events.emit("step.end", step=step)
        if step % 3 == 0 or step == int(steps):
            write_atomic(checkpoint, str(step).encode())
            events.emit("checkpoint.committed", step=step)
    Path("/dev/shm", descendants.segment.name).unlink()  # an orderly end removes its segments; a kill does not
    return 0


def left_on_purpose(line):
    """Tell the test session, where there is one, what to end (`left`)."""
    if "SWERL_TEST_STANDINS" in os.environ:
        with Path(os.environ["SWERL_TEST_STANDINS"]).open("a") as file:
            file.write(f"{line}\n")


def once_lost(run):
    """Whether the engine has been lost as often as ``STANDIN_LOST_TIMES`` says (once); counts this time."""
    count = run.root / "lost"
    lost = int(count.read_text()) if count.exists() else 0
    count.write_text(str(lost + 1))
    return lost >= int(os.environ.get("STANDIN_LOST_TIMES", "1"))


def descendants(run):
    """What Ray and vLLM leave: processes in other sessions and groups, one deaf to SIGTERM, one renamed, and a shared-memory segment."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    subprocess.Popen([sys.executable, "-S", "-c", deaf])
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"], start_new_session=True)
    subprocess.Popen([sys.executable, "-S", "-c", "import os, subprocess; os.setpgrp(); subprocess.Popen(['sleep', '300'])"]).wait()
    segment = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(segment._name, "shared_memory")  # so that only the supervisor removes it
    descendants.segment = segment
    left_on_purpose(f"segment {segment.name}")
    (run.root / "segment").write_text(segment.name)
    with (run.root / "segments").open("a") as file:
        file.write(f"{segment.name}\n")
    while not run.leftovers.exists():  # until the supervisor has seen whose it is, which takes it a tick: real segments live longer
        time.sleep(0.005)
    (run.tmp / "file").write_text("x")
    assert Path(os.environ["TMPDIR"]) == run.tmp


if __name__ == "__main__":
    try:
        sys.exit({"drive": drive, "launch": launched, "service": service, "trainer": trainer}[sys.argv[1]](*sys.argv[2:]))
    except SwerlError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
