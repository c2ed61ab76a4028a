"""The watchdog in a real supervisor: what follows an alarm, and who is told. The run's processes are those of standin.py."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from swerl.record.events import read_events
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.runs.status import one_screen, status_of
from swerl.watch.notify import Notifier

STANDIN = Path(__file__).with_name("standin.py")
ILL = json.dumps({"actor/grad_norm": 1.0, "num_turns/mean": 1.0})


def drive(root: Path, steps: int, watch: dict[str, object], **environment: str) -> tuple[int, str]:
    env = {
        **os.environ,
        "STANDIN_WATCH": json.dumps(watch),
        **{k if k.isupper() else f"STANDIN_{k.upper()}": v for k, v in environment.items()},
    }
    done = subprocess.run(
        [sys.executable, str(STANDIN), "drive", str(root), str(steps)], env=env, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout + done.stderr


def raised(run: RunDir) -> list[dict]:
    return [event for event in read_events(run.events_of("supervisor")) if event["kind"] == "alarm.raised"]


def screen(run: RunDir) -> str:
    registry = Registry(run.registry)
    try:
        return one_screen(status_of(run, registry))
    finally:
        registry.close()


def test_a_trainer_that_polls_for_ever_is_ended_and_named(tmp_path):
    run = RunDir.at(tmp_path / "runs" / "a")
    code, output = drive(run.root, 10, {"watch.idle_min": 0.05, "watch.sample_sec": 0.5}, hang_at="4")
    row = Registry(run.registry).get(run.id)
    assert code == 1 and row.state == State.FAILED and row.problem.startswith("SWERL-W502"), output
    assert "replay buffer polls for step 4" in row.problem and "same command resumes" in row.problem
    assert [event["id"] for event in raised(run)] == ["SWERL-W502"] and raised(run)[0]["evidence"]["step"] == 4
    assert "SWERL-W502 [stop]" in screen(run)
    assert any(event["kind"] == "sample" and event["disk_free_bytes"] > 0 for event in read_events(run.events_of("supervisor")))
    assert drive(run.root, 10, {})[0] == 0 and Registry(run.registry).get(run.id).state == State.COMPLETED


def test_an_alarm_that_pauses_lets_the_step_finish_and_saves(tmp_path):
    run = RunDir.at(tmp_path / "runs" / "a")
    code, output = drive(run.root, 400, {}, metrics=ILL)
    row = Registry(run.registry).get(run.id)
    assert code == 1 and row.state == State.INTERRUPTED and row.problem.startswith("SWERL-W108"), output
    stopped = next(event for event in read_events(run.events_of("trainer")) if event["kind"] == "run.stopped")
    assert (run.checkpoints / "newest").read_text() == str(stopped["step"]), "what was done was saved"
    assert not run.stop_request.exists()


def test_an_alarm_that_is_only_noted_ends_nothing_and_is_told(tmp_path):
    told = tmp_path / "told"
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/bash\necho "$SWERL_TITLE key=$WANDB_API_KEY" >> {told}\ncat >> {told}\necho >> {told}\n')
    program.chmod(0o755)
    run = RunDir.at(tmp_path / "runs" / "a")
    watch = {"watch.actions": {"SWERL-W108": "note"}, "notify.command": str(program)}
    key = "w" * 40
    code, output = drive(run.root, 40, watch, metrics=ILL, WANDB_API_KEY=key)
    assert code == 0 and "alarm, the run goes on: SWERL-W108" in output
    text = told.read_text()
    assert "a: SWERL-W108" in text and "a completed" in text and key not in text
    alarm = next(json.loads(line) for line in text.splitlines() if line.startswith("{"))
    assert alarm["id"] == "SWERL-W108" and alarm["run"] == "a"


def test_a_webhook_gets_json_without_secrets():
    got: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/hook"
        failures: list[tuple] = []
        notifier = Notifier(webhook=url, least="pause", secrets=("hunter2", url))
        assert notifier.tell("mild", {}, "note", print) is None, "a note is below what is wanted"
        notifier.tell("run a", {"problem": f"password hunter2 at {url}"}, "stop", lambda *a, **k: failures.append((a, k))).join(30)
    finally:
        server.shutdown()
    said = dict.fromkeys(("title", "text", "content"), "run a")  # what Slack and Discord show, beside ours
    assert json.loads(got[0]) == {**said, "problem": "password <secret> at <secret>"} and failures == []


def test_a_secret_is_found_in_the_form_that_json_gives_it():
    notifier = Notifier(secrets=('a"b\\c',))
    assert notifier.redacted(json.dumps({"problem": 'the key is a"b\\c'})) == '{"problem": "the key is <secret>"}'


def test_who_could_not_be_told_is_told_again_and_once_more_at_the_end(tmp_path, monkeypatch):
    """By the way that failed alone; who has heard is left in peace."""
    monkeypatch.setattr("swerl.watch.notify.AGAIN_S", (0.05, 600.0))
    program, told, failures, ends = tmp_path / "tell", tmp_path / "told", [], threading.Event()
    program.write_text(f"#!/bin/bash\necho once >> {told}\n")
    program.chmod(0o755)
    notifier = Notifier(command=(str(program),), webhook="http://127.0.0.1:9/nobody")
    thread = notifier.tell("t", {}, "stop", lambda kind, **fields: failures.append(fields["way"]), ends)
    deadline = time.monotonic() + 20
    while len(failures) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert failures == ["webhook"] * 2 and told.read_text() == "once\n" and thread.is_alive(), "it waits for the next time"
    ends.set()
    thread.join(20)
    assert failures == ["webhook"] * 3 and told.read_text() == "once\n" and not thread.is_alive()


def test_who_cannot_be_told_is_an_event_and_nothing_more():
    seen: list[tuple] = []
    notifier = Notifier(command=("/no/such/program",), webhook="gopher://x", secrets=("gopher",))
    notifier.tell("t", {}, "stop", lambda kind, **fields: seen.append((kind, fields["way"]))).join(30)
    assert seen == [("notify.failed", "command"), ("notify.failed", "webhook")]
