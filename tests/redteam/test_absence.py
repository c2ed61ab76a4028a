"""Agents that would rather be absent than bad. Whatever they do to their sandbox, their work, their calls or the tests' run, the trial ends
with a verdict of 0 that counts, is not tried again, and is charged to nobody but them.
"""

import asyncio

import pytest
from attackkit import CARELESS, MINI, play, put
from harbor.models.agent.context import AgentContext
from trialkit import FIX, Running, make_task, say, script

from swerl.record.outcomes import Outcome
from swerl.trials.agents.mini import MiniAgent

pytestmark = [pytest.mark.trials, pytest.mark.slow]


def counts(played, reward=0.0):
    result = played.result
    assert (result.reward, result.in_loss, result.graded, result.attempts) == (reward, True, True, 1), result
    assert result.outcome in (Outcome.COMPLETED, Outcome.AGENT_ERROR, Outcome.MAX_TURNS)
    assert not played.running.events("trial.failed") and played.running.runner.scheduler.breaker.problem is None


IN_ITS_SANDBOX = {
    "signals": "for s in INT TERM HUP QUIT SEGV KILL STOP; do kill -$s 1; done; kill -9 -1",
    "limits": "python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_CPU, (0, 0))'; echo 1000 > /proc/1/oom_score_adj",
    "modes": "mkdir z z/y; echo x > z/y/f; chmod 000 z/y/f z/y z . /app / 2>/dev/null",
    "names": "touch $'a\\xff' $'b\\n' $'c\\x1b[2J' -- -rf; mkdir $'\\xfe'; ln -s $'\\xff' x; ln -s $'/\\xff' y",
    "long-names": "n=$(printf 'n%.0s' $(seq 250)); for i in 1 2 3 4 5 6 7 8 9; do mkdir $n; cd $n; touch f; done",
    "gone": "rm -rf /app /logs /tmp; cd /; ln -s / /app; ln -s / /logs",
    "files": "mkdir m; cd m; python3 -c 'for i in range(20000): open(str(i), \"w\").close()'",
    "deep": 'python3 -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\'',
    "disk": "head -c 999999999 /dev/zero > f; head -c 999999999 /dev/zero > /tmp/f",
    "memory": "python3 -c 'import os\nwhile True:\n    os.fork()\n    x = bytearray(30 << 20)'",
    "processes": "for i in $(seq 2000); do sleep 99 & done",
    "special": "mkfifo p setup.cfg; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'; ln p hard; truncate -s 8E giant",
    "output": "yes | head -c 99999999; printf '\\xff\\xfe\\ud800'; cat /dev/urandom | head -c 3000000",
    "logs": r"""cd /logs/agent; printf '\xff{' > trajectory.json; python3 -c 'print("[" * 99999)' > x.json; mkfifo y.json""",
}


@pytest.mark.parametrize("name", IN_ITS_SANDBOX)
def test_what_an_agent_does_to_its_sandbox(tmp_path, name):
    counts(play(tmp_path, IN_ITS_SANDBOX[name], max_attempts=2))


@pytest.mark.parametrize("name", ["signals", "modes", "names", "special", "output", "logs"])
def test_it_takes_nothing_from_honest_work(tmp_path, name):
    """The same, by the way, as test suites and builds do it."""
    counts(play(tmp_path, f"{FIX}; cp calc.py /tmp", IN_ITS_SANDBOX[name].replace(". /app /", ""), max_attempts=2), reward=1.0)


IN_THE_TESTS = {
    "hangs": "import time\ntime.sleep(1000)",
    "spins": "while True: pass",
    "kills-process-1": (
        "import os, time\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except (OSError, ValueError): pass\ntime.sleep(1000)"
    ),
    "kills-the-script": "import os\nos.kill(-1, 9)",
    "no-reward": "import os\nos.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)",
    "no-logs": "import os, shutil\nshutil.rmtree('/logs')\nos.kill(-1, 9)",
    "logs-a-link": "import os\nos.rename('/logs/verifier', '/x')\nos.symlink('/', '/logs/verifier')\nos.kill(-1, 9)",
    "many-files": "import os\nos.chdir('/logs/verifier')\nfor n in range(18000): open(f'f{n:05}', 'w').close()",
    "deep-files": "import os\nos.chdir('/logs/verifier')\nfor _ in range(200):\n    os.mkdir('d')\n    os.chdir('d')",
    "giant": (
        "import os\nos.truncate(os.open('/logs/verifier/x', os.O_CREAT | os.O_WRONLY), 10**6)\n"
        "open('/logs/verifier/a', 'wb').write(b'x' * (9 << 20))"
    ),
    "closed": "import os\nos.chmod('/logs/verifier', 0)\nos.chmod('/logs', 0)\nos.kill(-1, 9)",
    "memory": "import os\nwhile True:\n    os.fork()\n    x = bytearray(30 << 20)",
    "disk": "import os\nopen('/f', 'wb').write(bytes(10**9))",
    "processes": "import os, time\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(1000)\n    except OSError: os.kill(-1, 9)",
}


@pytest.mark.parametrize("name", IN_THE_TESTS)
def test_what_tested_code_does_to_the_tests(tmp_path, name):
    counts(play(tmp_path, put("calc.py", IN_THE_TESTS[name]), verifier_timeout=4, max_attempts=2))


REWARDS = {
    "list": "[1]",
    "number": "1",
    "text": '{"reward": "1"}',
    "nan": '{"reward": NaN}',
    "infinite": '{"reward": 1e999}',
    "beyond-floats": '{"reward": 1' + "0" * 400 + "}",
    "other-name": '{"score": 1}',
    "empty": "",
    "deep": "[" * 30000,
    "no-text": "\\xff\\xfe",
    "null": "null",
    "many": '{"reward": 1' + "".join(f', "{number}": 1' for number in range(200)) + "}",
    "large": '{"reward": 1%s}',
    "half": '{"reward": 1, "\\\\ud800": 1}',
}


@pytest.mark.parametrize("kills", [True, False])
@pytest.mark.parametrize("name", REWARDS)
def test_a_verdict_that_is_none(tmp_path, name, kills):
    text = f"b'{REWARDS[name]}'.replace(b'%s', b' ' * 100_000)"
    code = f"import os\nopen('/logs/verifier/reward.json', 'wb').write({text})\n" + "os.kill(-1, 9)\n" * kills
    played = play(tmp_path, put("calc.py", code), verifier_timeout=4, max_attempts=2)
    counts(played)
    assert played.kinds & ({"tests-killed"} if kills else {"no-verdict", "reward-without-a-passed-test"})


def raw(arguments, **more):
    function = {"name": "bash", "arguments": arguments}
    first = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function, **more}]}
    return lambda messages: say("done") if any(message["role"] == "assistant" for message in messages) else first


CALLS = {
    "lone-surrogate": raw('{"command": "echo \\ud800"}', id="c"),
    "deep": raw('{"command": ' + "[" * 100_000 + "]" * 100_000 + "}", id="c"),
    "no-id": raw('{"command": "true"}'),
    "other-id": raw('{"command": "true"}', id=7),
    "list": raw("[1]", id="c"),
    "number": raw('{"command": ' + "1" * 9000 + "}", id="c"),
    "no-text": raw(None, id="c"),
    "nul": raw('{"command": "echo \\u0000"}', id="c"),
    "long": raw('{"command": "echo ' + "x" * 300_000 + '"}', id="c"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_none(tmp_path, name):
    counts(play(tmp_path, policy=CALLS[name], max_attempts=2))


class Tripping(MiniAgent):
    """An adapter on the host's side that trips over what its agent wrote, in its turn and after it."""

    async def run(self, instruction, environment, context):
        await super().run(instruction, environment, AgentContext())
        raise KeyError("usage")

    def populate_context_post_run(self, context):
        raise RecursionError("a log of an agent's making")


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_an_adapter_that_trips_over_its_agents_words(tmp_path, reward):
    agent = {"import_path": f"{__name__}:Tripping", "kwargs": MINI["kwargs"]}
    played = play(tmp_path, *([FIX] if reward else ["true"]), agent=agent, max_attempts=2)
    counts(played, reward)
    assert played.result.outcome is Outcome.AGENT_ERROR and "unreadable-log" in played.kinds


def test_no_number_of_such_trials_stops_a_run(tmp_path):
    ways = (IN_ITS_SANDBOX["gone"], IN_ITS_SANDBOX["deep"], put("calc.py", IN_THE_TESTS["kills-the-script"]))

    async def main():
        async with Running(tmp_path / "run", agent=MINI, max_attempts=2, retry_budget=0.0, breaker_failures=2) as running:
            for number in range(6):
                running.gateway.policy = script(ways[number % 3])
                result = await running.run(make_task(tmp_path, f"t{number}", test_sh=CARELESS))
                assert (result.reward, result.in_loss, result.attempts) == (0.0, True, 1)
            assert running.runner.scheduler.breaker.problem is None and not running.runner.scheduler.quarantine.tasks

    asyncio.run(main())
