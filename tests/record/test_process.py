"""Real processes: who is alive, and which belong to a run."""

import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from swerl.record.process import (
    TOKEN_VARIABLE,
    ProcessRef,
    boot_id,
    end_processes,
    environment_of,
    look,
    owned_processes,
    send,
    this_process,
)

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
STUBBORN = [sys.executable, "-S", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"]
# A parent that starts a child in another session, drops the token from the child's environment, and waits.
FAMILY = [
    sys.executable,
    "-S",
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], start_new_session=True, env={'A': 'b'})\n"
    "print(child.pid, flush=True); time.sleep(60)",
]


@pytest.fixture
def spawned():
    processes = []

    def spawn(argv, **options):
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **options))
        return processes[-1]

    yield spawn
    for process in processes:
        process.kill()
        process.wait()


def ref_of(process):
    seen = look(process.pid)
    assert seen is not None
    return seen.ref


def test_a_process_is_alive_until_it_ends_even_as_a_zombie(spawned):
    process = spawned(SLEEP)
    ref = ref_of(process)
    assert ref.alive()
    process.kill()
    deadline = time.monotonic() + 10
    while ref.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not ref.alive()  # nobody has waited for it: it is a zombie
    assert look(process.pid).state == "Z"
    process.wait()
    assert look(process.pid) is None


def test_another_start_time_or_boot_is_another_process():
    me = this_process()
    assert me.alive()
    assert not ProcessRef(me.pid, me.start_ticks + 1, me.boot).alive()
    assert not ProcessRef(me.pid, me.start_ticks, "another boot").alive()


def test_a_signal_never_reaches_a_process_that_reused_the_pid(spawned):
    process = spawned(SLEEP)
    ref = ref_of(process)
    send(ProcessRef(ref.pid, ref.start_ticks - 1, boot_id()), signal.SIGKILL)
    time.sleep(0.1)
    assert process.poll() is None
    send(ref, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_the_token_finds_a_process_and_only_with_the_whole_token(spawned):
    token = secrets.token_hex(8)
    mine = spawned(SLEEP, env={**os.environ, TOKEN_VARIABLE: token})
    spawned(SLEEP, env={**os.environ, TOKEN_VARIABLE: token + "0"})
    spawned(SLEEP)
    assert [seen.pid for seen in owned_processes({TOKEN_VARIABLE: token}, [])] == [mine.pid]


def test_children_belong_whatever_their_session_and_environment(spawned):
    token = secrets.token_hex(8)
    parent = spawned(FAMILY, env={**os.environ, TOKEN_VARIABLE: token})
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 10
    while environment_of(child) is None and time.monotonic() < deadline:  # Popen returns a moment before the kernel has laid it out
        time.sleep(0.01)
    assert environment_of(child) == {"A": "b"}
    assert {seen.pid for seen in owned_processes({TOKEN_VARIABLE: token}, [])} == {parent.pid, child}


def test_a_recorded_session_finds_orphans_whose_environment_is_gone(spawned):
    # The leader starts a child with an empty environment (as one whose title overwrote it) and ends; the child stays in its session.
    script = (
        "import subprocess, sys; print(subprocess.Popen(['/bin/sleep', '60'], env={}, stdout=subprocess.DEVNULL).pid, flush=True); input()"
    )
    leader = spawned([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
    child = int(leader.stdout.readline())
    session = ref_of(leader)
    leader.communicate("\n", timeout=10)
    try:
        found = owned_processes({TOKEN_VARIABLE: "no such token"}, [session])
        assert [seen.pid for seen in found] == [child]
        # A leader that started later than the child cannot have opened its session: the number was used before.
        late = ProcessRef(session.pid, session.start_ticks + 10_000_000, session.boot)
        assert owned_processes({TOKEN_VARIABLE: "no such token"}, [late]) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_ending_kills_what_ignores_termination(spawned):
    token = secrets.token_hex(8)
    process = spawned(STUBBORN, env={**os.environ, TOKEN_VARIABLE: token})
    assert process.stdout.readline() == "up\n"
    ended, left = end_processes(lambda: owned_processes({TOKEN_VARIABLE: token}, []), grace_s=0.3)
    assert [seen.pid for seen in ended] == [process.pid] and left == []
    assert process.wait(timeout=10) == -signal.SIGKILL
