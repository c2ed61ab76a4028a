"""Trials in containers of a real Docker engine, through the whole runner: verdicts, network, stopping, leftovers, TLS, what is missing."""

import asyncio
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dockerkit import IMAGE, Engine, Missing, certificates
from trialkit import FIX, IDLE, Running, ask, make_task, request_for, runner_process, script

from swerl.record.outcomes import Outcome
from swerl.trials.sandboxes import engine

pytestmark = [pytest.mark.trials, pytest.mark.slow, pytest.mark.long]

TEST_SH = "#!/bin/bash\ncd /app\nif grep -q 'a + b' calc.py; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n"


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    place = tmp_path_factory.mktemp("docker")
    try:
        with Engine(place / "e", tls=certificates(place / "keys")) as kit:
            kit.load_base()
            yield kit
    except Missing as error:
        pytest.skip(f"no Docker engine: {error}")


@pytest.fixture
def on(kit, monkeypatch):
    for name, value in kit.environment.items():
        monkeypatch.setenv(name, value)
    yield kit
    assert kit.left() == []


def running(tmp_path, policy=IDLE, network="none", **changes):
    made = Running(tmp_path / "run", policy, **changes)
    sandbox = {**made.settings.sandbox, "network": network}
    harbor = {**made.settings.harbor, "environment": {"type": "docker", **changes.get("environment", {})}}
    made.settings = replace(made.settings, harbor=harbor, sandbox=sandbox)
    made.runner.settings = made.settings
    return made


def test_the_null_trial_and_the_solution(tmp_path, on):
    async def main():
        task, empty = (
            make_task(tmp_path, test_sh=TEST_SH),
            make_task(tmp_path, "any", test_sh="#!/bin/sh\necho 1 > /logs/verifier/reward.txt\n"),
        )
        found = []
        for agent, which in (("nop", empty), ("nop", task), ("oracle", task)):
            async with running(tmp_path / f"{agent}-{which.name}", agent={"name": agent}) as ran:
                found.append(await ran.run(which))
        return found

    for name in ("nop-any", "nop-add", "oracle-add"):
        (tmp_path / name).mkdir()
    results = asyncio.run(main())
    assert [(r.outcome, r.reward, r.error) for r in results] == [(Outcome.COMPLETED, reward, None) for reward in (1.0, 0.0, 1.0)]


def tools(gateway):
    """What the policy was shown of its commands, in order."""
    return [m["content"] for m in gateway.requests[-1]["messages"] if m["role"] == "tool"]


def reach(host, port):
    asked = 'printf "GET /health/liveliness HTTP/1.0\\r\\n\\r\\n" >&3'
    return f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port} && {asked} && cat <&3' 2>&1 | tail -n 1"


@pytest.fixture
def elsewhere(on):
    """A server on the engine's side of the network, bound to every address: what a container with a network does reach."""
    made = []

    def serve():
        with Path(f"/proc/{on._process.pid}/ns/net").open() as namespace:
            os.setns(namespace.fileno(), os.CLONE_NEWNET)
        made.append(socket.create_server(("0.0.0.0", 0)))
        try:
            while True:
                near, _ = made[0].accept()
                asked = b""
                while not asked.endswith(b"\r\n\r\n") and (data := near.recv(4096)):  # what is left unread becomes a reset
                    asked += data
                near.sendall(b"HTTP/1.0 200 OK\r\n\r\nelsewhere")
                near.close()
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    while not made:
        time.sleep(0.01)
    yield made[0].getsockname()[1]
    made[0].shutdown(socket.SHUT_RDWR)
    thread.join(5)
    made[0].close()


def test_a_container_reaches_the_gateway_and_nothing_else(tmp_path, on, elsewhere):
    async def main():
        (tmp_path / "gateway").mkdir(), (tmp_path / "public").mkdir()
        async with running(tmp_path / "gateway", network="gateway") as ran:
            port, admin = ran.gateway.port, ran.gateway._sites[1].addresses[0][1]
            tried = (("127.0.0.1", port), ("127.0.0.1", admin), ("172.31.250.1", elsewhere), ("host.docker.internal", port))
            interfaces = "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' \\n'; cat /proc/net/route | wc -l"
            ran.gateway.policy = script("; echo --; ".join([*(reach(*where) for where in tried), interfaces]), FIX)
            result = await ran.run(make_task(tmp_path, test_sh=TEST_SH))
            seen = [part.strip() for part in tools(ran.gateway)[0].split("--")]
        async with running(tmp_path / "public", script(reach("172.31.250.1", elsewhere)), network="public") as ran:
            await ran.run(make_task(tmp_path, "open", test_sh=TEST_SH))
            return result, seen, tools(ran.gateway)

    result, seen, control = asyncio.run(main())
    assert (result.outcome, result.reward, result.error) == (Outcome.COMPLETED, 1.0, None)
    assert control == ["elsewhere"] and seen[0] == "alive"
    assert not any("elsewhere" in said or "alive" in said for said in seen[1:]), seen
    assert seen[-1] == "lo1", seen  # one interface, and no route but the table's heading


def test_grading_happens_where_the_agent_never_was(tmp_path, on):
    """What it planted outside the working directory, left running or hid behind the tests' names has no part in the verdict."""
    cheat = (
        "printf '#!/bin/bash\\nexit 0\\n' > /usr/bin/grep; echo 1 > /logs/verifier/reward.txt; ln -sfn /etc /tests;"
        " (setsid sh -c 'while :; do echo 1 > /logs/verifier/reward.txt; sleep 0.1; done' >/dev/null 2>&1 &); touch conftest.py test_x.py"
    )

    async def main():
        found = []
        for name, work in (
            ("cheat", cheat),
            ("honest", f"git log --oneline; {FIX}; mkdir -p sub; echo x > sub/new; ln -s new sub/link; rm gone"),
        ):
            (tmp_path / name).mkdir()
            task = make_task(
                tmp_path / name, files={"calc.py": "def add(a, b):\n    return a - b\n", "gone": "x"}, test_sh=TEST_SH + "ls -R /app\n"
            )
            async with running(tmp_path / name, script(work)) as ran:
                result = await ran.run(task)
                found.append((result, (ran.settings.trials_dir / result.trial_name / "verifier" / "test-stdout.txt").read_text()))
        return found

    (cheated, _), (honest, listed) = asyncio.run(main())
    assert (cheated.outcome, cheated.reward, cheated.in_loss) == (Outcome.COMPLETED, 0.0, True)
    kinds = {(finding["kind"], finding["path"].split("/")[-1]) for finding in cheated.info["findings"]}
    assert {("test-configuration", "conftest.py"), ("test-file", "test_x.py")} <= kinds and any(kind == "left-running" for kind, _ in kinds)
    assert (honest.outcome, honest.reward) == (Outcome.COMPLETED, 1.0) and "gone" not in listed and "link" in listed and "new" in listed


@pytest.mark.parametrize("end", ["kill -9 1; kill 1; sleep 5", "kill -9 -1; sleep 5"])
def test_an_agent_that_ends_its_container_has_done_nothing(tmp_path, on, end):
    async def main():
        async with running(tmp_path, script(f"{FIX}; {end}", "ls")) as ran:
            return await ran.run(make_task(tmp_path, test_sh=TEST_SH))

    result = asyncio.run(main())
    assert result.attempts == 1 and result.graded and result.in_loss, result
    assert result.reward == (0.0 if result.outcome is Outcome.AGENT_ERROR else 1.0)


def test_stopping_takes_no_grace(tmp_path, on):
    """Process 1 of a container ignores SIGTERM; by default that costs ten seconds a trial."""

    async def main():
        async with running(tmp_path, script("trap '' TERM; (trap '' TERM; setsid sleep 60 &) ; true")) as ran:
            began = time.monotonic()
            result = await ran.run(make_task(tmp_path, test_sh=TEST_SH))
            took = time.monotonic() - began
            return result.timing, took

    timing, took = asyncio.run(main())
    assert took - timing.setup_s - timing.agent_s - timing.verifier_s < 8.0  # with the grace twice it would be over twenty


def test_what_a_killed_runner_leaves_is_reaped_and_nothing_else(tmp_path, on):
    on.docker("run", "--detach", "--name", "bystander", "--label", f"{engine.LABEL}=another", IMAGE, "sleep", "600")

    async def again():
        ran = running(tmp_path, script(FIX), network="gateway")
        async with ran:
            first = on.left()
            return first, await ran.run(tmp_path / "add")

    async def dead():
        async def forever(messages):
            await asyncio.sleep(600)

        ran = running(tmp_path, forever, network="gateway")
        await ran.gateway.start()
        process = runner_process(ran.settings)
        task = make_task(tmp_path, test_sh=TEST_SH)
        trials = [asyncio.create_task(ask(ran.settings, request_for(task, sample=n))) for n in range(2)]
        while not ran.gateway.requests:
            await asyncio.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)  # one trial at work, the other perhaps in the middle of its start
        process.wait()
        await asyncio.gather(*trials, return_exceptions=True)
        await ran.gateway.stop()

    asyncio.run(dead())
    assert len(on.left()) >= 2
    first, result = asyncio.run(again())
    assert first == ["container bystander"] and result.reward == 1.0
    on.docker("rm", "--force", "bystander")


def test_an_engine_behind_tls(tmp_path, on, monkeypatch):
    """As if it were another host's: at 2376 with certificates. No path of this host is mounted; what cannot be kept there is refused."""
    with on.forward() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(on.tls))

        async def main():
            (tmp_path / "none").mkdir(), (tmp_path / "gateway").mkdir()
            task = make_task(tmp_path, test_sh=TEST_SH)
            async with running(tmp_path / "none", script(FIX)) as ran:
                result = await ran.run(task)
            async with running(tmp_path / "gateway", script(FIX), network="gateway", max_attempts=1) as ran:
                return result, await ran.run(task)

        result, refused = asyncio.run(main())
        assert (result.outcome, result.reward) == (Outcome.COMPLETED, 1.0), result
        assert refused.outcome is Outcome.ENV_FAILED and "SWERL-T054" in refused.error and "2376" in refused.error
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        with pytest.raises(Exception, match="SWERL-T055"):
            engine._required.cache_clear()
            engine.require()
    engine._required.cache_clear()


def test_an_engine_that_is_open_to_everybody_is_warned_of(tmp_path, on, monkeypatch):
    """At 2375 without TLS: it works, and preflight says what it is. The engine's own socket is what may be kept to the gateway."""
    from swerl.config import load
    from swerl.config.schema import PROJECT_ROOT
    from swerl.preflight import containers
    from swerl.preflight.check import Fact
    from swerl.preflight.context import Context

    def asked(check, host):
        docker = {"harbor_agent.environment_type": "docker", "harbor_agent.environment_import_path": ""}
        docker |= {"harbor_agent.docker_host": host} if host else {}
        config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", docker)
        return list(check.run(Context(config, env={**os.environ})))

    with Engine(tmp_path / "open", plain=True) as bare, bare.forward(2375) as port:
        address = f"tcp://127.0.0.1:{port}"
        warned, fact = asked(containers.DockerAnswers(), address)
        assert warned.severity == "warning" and "unprotected" in warned.message and address in warned.message
        assert isinstance(fact, Fact) and fact.text.startswith("daemon ") and "compose " in fact.text
        (refused,) = asked(containers.GatewayIntoContainers(), address)
        assert (refused.id, refused.severity) == ("SWERL-P517", "fatal") and address in refused.message
        bare.load_base()
        monkeypatch.setenv("DOCKER_HOST", address)

        async def main():
            async with running(tmp_path, script(FIX)) as ran:
                return await ran.run(make_task(tmp_path, test_sh=TEST_SH))

        assert asyncio.run(main()).reward == 1.0
        assert bare.left() == []
    monkeypatch.setenv("DOCKER_HOST", on.environment["DOCKER_HOST"])
    engine._required.cache_clear()
    assert [type(found) for found in asked(containers.DockerAnswers(), "")] == [Fact]
    assert [type(found) for found in asked(containers.GatewayIntoContainers(), on.environment["DOCKER_HOST"])] == [Fact]


def test_what_is_missing_is_named(tmp_path, on, monkeypatch):
    async def main(image=IMAGE):
        task = make_task(tmp_path / "t", test_sh=TEST_SH)
        (task / "task.toml").write_text((task / "task.toml").read_text().replace(IMAGE, image))
        async with running(tmp_path, script(FIX), max_attempts=1) as ran:
            return await ran.run(task)

    (tmp_path / "t").mkdir()
    result = asyncio.run(main("registry.invalid/no/image:1"))
    assert result.outcome is Outcome.ENV_FAILED and result.error.startswith("ImagePullFailed: registry.invalid/no/image:1"), result.error
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(Exception, match=r"SWERL-T055.*docker compose \(v2\) is missing"):
        engine.require()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    monkeypatch.setenv("DOCKER_CONFIG", on.environment["DOCKER_CONFIG"])
    with pytest.raises(Exception, match=r"SWERL-T055.*the engine is missing"):
        engine.require()
