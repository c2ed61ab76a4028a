"""kill -9 of the runner and of the gateway at the phases of a trial: nothing finished is lost or done twice, nothing is left behind."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import aiohttp
import orjson
import psutil
import pytest
from trialkit import FIX, FakeGateway, ask, call, make_task, request_for, runner_process, say, script, settings_for

from swerl.record.trial_journal import read
from swerl.trials.sandboxes import limits, overlay, reaper
from swerl.trials.sandboxes.launch import PROGRAM

pytestmark = [pytest.mark.trials, pytest.mark.slow]
SLEEPER = "setsid sleep 4321 & sleep 4321"


def ours(settings):
    """Processes of this run's sandboxes, by any trace of them."""
    marked = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and p.info["cmdline"][-1] == settings.run_tag]
    sleeping = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4321"]]
    groups = [group for root in limits.group_root(settings.run_tag) if root.is_dir() for group in root.iterdir() if group.is_dir()]
    return marked, sleeping, groups


def gone(settings, within_s=10.0):
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        marked, sleeping, _ = ours(settings)
        if not marked and not sleeping:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("phase", ["agent", "grading", "between"])
def test_a_killed_runner_finishes_what_it_is_asked_again(tmp_path, phase):
    slow_tests = "#!/bin/bash\nsleep 4\n" if phase == "grading" else "#!/bin/bash\n"
    task = make_task(tmp_path, test_sh=slow_tests + "echo 1 > /logs/verifier/reward.txt\n")
    (tmp_path / "run").mkdir()
    settings = settings_for(tmp_path / "run", num_workers=4)

    async def main():
        first = True

        async def policy(messages):
            if first and phase == "agent":
                return call(SLEEPER)
            return say("done")

        gateway = await FakeGateway(settings.services_path, policy).start()
        process = runner_process(settings)
        try:
            if phase == "between":
                assert (await ask(settings, request_for(task)))["outcome"] == "completed"
            else:
                asking = asyncio.create_task(ask(settings, request_for(task)))
                while not any(s["closed"] == "grading" if phase == "grading" else s["turns"] for s in gateway.sessions.values()):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.5)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if phase != "between":
                with pytest.raises((aiohttp.ClientError, orjson.JSONDecodeError)):
                    await asking
            assert gone(settings), ours(settings)  # the sandboxes went with the runner, without anybody's help
            first = False
            process = runner_process(settings)
            result = await ask(settings, request_for(task))
            assert (result["outcome"], result["reward"]) == ("completed", 1.0)
            assert result["reused"] == (phase == "between")
            assert len(gateway.sessions) == (1 if phase == "between" else 2)
            assert [s["trial"]["attempt"] for s in gateway.sessions.values()] == list(range(1, len(gateway.sessions) + 1))
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            await gateway.stop()
        settled = [line for line in read(settings.journal_path) if line["kind"] == "settled"]
        assert len(settled) == 1
        assert not any(root.exists() for root in limits.group_root(settings.run_tag))

    asyncio.run(main())


def test_a_terminated_runner_tidies_up_and_says_so(tmp_path):
    task = make_task(tmp_path)
    (tmp_path / "run").mkdir()
    settings = settings_for(tmp_path / "run")

    async def main():
        gateway = await FakeGateway(settings.services_path, script(SLEEPER)).start()
        process = runner_process(settings)
        asking = asyncio.create_task(ask(settings, request_for(task)))
        while not gateway.requests:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        process.terminate()
        assert (await asking)["status"] == 503
        assert process.wait(30) == 0
        assert gone(settings) and ours(settings)[2] == []
        assert all(session["closed"] for session in gateway.sessions.values())
        await gateway.stop()

    asyncio.run(main())
    assert [line["kind"] for line in read(settings.journal_path)] == ["attempt"]


def test_a_killed_gateway_costs_time_and_nothing_else(tmp_path):
    task = make_task(tmp_path)
    (tmp_path / "run").mkdir()
    settings = settings_for(tmp_path / "run", agent_timeout=30.0)

    async def main():
        gateway = await FakeGateway(settings.services_path, script("sleep 1", FIX)).start()
        process = runner_process(settings)
        try:
            asking = asyncio.create_task(ask(settings, request_for(task)))
            for _ in range(2):
                asked = len(gateway.requests)
                while len(gateway.requests) == asked:
                    await asyncio.sleep(0.02)
                await gateway.stop()
                await asyncio.sleep(1.0)
                await gateway.start()
            result = await asking
            assert (result["outcome"], result["reward"], result["attempts"]) == ("completed", 1.0, 1)
        finally:
            process.terminate()
            process.wait(30)
            await gateway.stop()

    asyncio.run(main())


@pytest.mark.skipif(not limits.group_root("x"), reason="no writable control groups")
def test_a_runs_sandboxes_weigh_as_much_as_their_number_and_no_more_than_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    tag, weights, groups = "weight-test", [], []
    try:
        for number in range(5):
            groups.append(limits.make_group(tag, f"s{number}", limits.Limits(cpus=1)))
            (file,) = [file for root in limits.group_root(tag) for file in (root / "cpu.shares", root / "cpu.weight") if file.exists()]
            weights.append(int(file.read_text()))
    finally:
        for group in groups:
            assert group.remove()
    assert [weight // weights[0] for weight in weights] == [1, 2, 3, 3, 3] and weights[0] in (100, 1024)


def test_the_reaper_takes_what_a_dead_run_left_and_nothing_else(tmp_path):
    """Leftovers are planted by hand: the kernel takes real ones away by itself (see above)."""
    import subprocess

    tag, other = (f"reaper-test-{os.getpid()}-{name}" for name in ("one", "two"))  # another session beside this one has its own
    line = ["bash", "-c", "read -r _; true", f"{PROGRAM}/main.pyc", "-1"]  # without a child: a fork looks like its parent for a moment
    started = {"start_new_session": True, "stdin": subprocess.PIPE}
    processes = {name: subprocess.Popen([*line, name], **started) for name in (tag, other)}
    work = tmp_path / "work"
    (work / tag / "s1" / "rw").mkdir(parents=True)
    groups = []
    if os.geteuid() == 0:
        overlay._mount("tmpfs", work / tag / "s1" / "rw", "tmpfs", "size=1m")
        for name in (tag, other):
            group = limits.make_group(name, "s1", limits.Limits())
            groups.append(group)
    try:
        found = reaper.reap(tag, work)
        assert found.processes == 1 and processes[tag].wait(5) == -signal.SIGKILL
        assert processes[other].poll() is None
        assert not (work / tag).exists() and str(work) not in Path("/proc/self/mountinfo").read_text()
        if groups:
            assert found.mounts == 1 and found.groups >= 2
            assert not any(path.exists() for path in groups[0].paths) and all(path.exists() for path in groups[1].paths)
        assert reaper.reap(tag, work) == reaper.Reaped()
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
        reaper.reap(other, work)
