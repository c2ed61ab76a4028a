"""Harbor's environment protocol on the bubblewrap sandbox: a task's files, its Dockerfile, its repository, mounts and refusals."""

import asyncio
import subprocess

import pytest
from harbor.models.task.config import EnvironmentConfig
from harbor.models.trial.paths import TrialPaths

from swerl.errors import SwerlError
from swerl.trials.sandboxes.bubblewrap import BubblewrapEnvironment

pytestmark = pytest.mark.trials


def environment(tmp_path, config=None, **kwargs):
    (tmp_path / "environment").mkdir(exist_ok=True)
    paths = TrialPaths(trial_dir=tmp_path / "trial")
    paths.mkdir()
    config = EnvironmentConfig(**({"docker_image": "any", "workdir": "/app"} if config is None else config))
    return BubblewrapEnvironment(
        environment_dir=tmp_path / "environment",
        environment_name="task",
        session_id="task__env",
        trial_paths=paths,
        task_env_config=config,
        run_tag="test-environment",
        **kwargs,
    )


def within(made, body):
    async def main():
        await made.start(force_build=False)
        try:
            return await body(made)
        finally:
            await made.stop(delete=True)

    return asyncio.run(main())


def out(result):
    return result.stdout.strip()


def test_loose_files_go_to_the_working_directory(tmp_path):
    made = environment(tmp_path)
    (tmp_path / "environment" / "pkg").mkdir()
    (tmp_path / "environment" / "pkg" / "a.py").write_text("1\n")

    async def body(env):
        assert out(await env.exec("pwd; cat pkg/a.py; stat -c %a /logs/agent /logs/verifier /logs/artifacts")) == "/app\n1\n777\n777\n777"
        assert (
            out(await env.exec("echo $X-$HOME-$PATH", env={"X": "1"}))
            == "1-/root-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        with env.scoped_exec_env({"X": "2"}):
            assert out(await env.exec("echo $X", env={"X": "1"})) == "2"
        seen = []

        async def hear(text, stream):
            seen.append((text, stream))

        with env.scoped_output_callback(hear):
            await env.exec("echo a; echo b >&2")
        assert sorted(seen) == [("a\n", "stdout"), ("b\n", "stderr")]
        with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
            await env.exec("sleep 30", timeout_sec=1)
        with pytest.raises(SwerlError, match="SWERL-T022"):
            await env.exec("true", user="agent")

    within(made, body)


def test_a_dockerfile_is_carried_out(tmp_path):
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "Dockerfile").write_text(
        "FROM debian\nENV GREETING=hello\nWORKDIR /testbed\nCOPY src/ .\nCOPY one.txt .\nCOPY two.txt /testbed\nCOPY one.txt /data/\n"
        "RUN echo $GREETING > made && mkdir sub\n"
    )
    (tmp_path / "environment" / "src").mkdir()
    (tmp_path / "environment" / "src" / "f").write_text("f\n")
    (tmp_path / "environment" / "one.txt").write_text("one\n")
    (tmp_path / "environment" / "two.txt").write_text("two\n")

    async def body(env):
        said = out(await env.exec("pwd; echo *; cat made /data/one.txt; echo $GREETING"))
        assert said == "/testbed\nf made one.txt sub two.txt\nhello\none\nhello"

    within(environment(tmp_path, {}), body)


def test_a_dockerfile_that_fails_says_where(tmp_path):
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "Dockerfile").write_text("FROM debian\nRUN echo why >&2; exit 3\n")

    async def body(env):
        raise AssertionError

    with pytest.raises(Exception, match=r"RUN echo why.*ended with 3: why"):
        within(environment(tmp_path, {}), body)


def test_history_is_gone_for_the_agent_and_there_for_the_grader(tmp_path):
    made = environment(tmp_path, changes_only=True)
    git = ["git", "-C", str(tmp_path / "environment"), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    for text in ("one", "two"):
        (tmp_path / "environment" / "f").write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", text], check=True)

    async def body(env):
        assert out(await env.exec("git log --format=%s --all; git status --porcelain")) == "start"
        await env.exec("echo three > f; git commit -qam mine")
        received = await env.changes(tmp_path / "answer", 1 << 20)
        assert received.written == ("f",)
        fresh = env.sibling("grading")
        await fresh.start(force_build=False)
        try:
            assert out(await fresh.exec("git log --format=%s; cat f")) == "two\none\ntwo"
        finally:
            await fresh.stop(delete=True)

    within(made, body)


def test_a_directory_of_the_host_can_be_shown(tmp_path):
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "f").write_text("of the host\n")
    mounts = [{"type": "bind", "source": str(tmp_path / "shown"), "target": "/opt/shown", "read_only": True}]

    async def body(env):
        result = await env.exec("cat /opt/shown/f; echo x > /opt/shown/f")
        assert result.stdout == "of the host\n" and "Read-only" in result.stderr

    within(environment(tmp_path, mounts=mounts), body)
    assert (tmp_path / "shown" / "f").read_text() == "of the host\n"


@pytest.mark.parametrize(
    ("kwargs", "id"),
    [
        ({"mounts": [{"type": "bind", "source": "/x", "target": "/tests"}]}, "T023"),
        ({"mounts": [{"type": "bind", "source": "/x", "target": "/logs/verifier/deep"}]}, "T023"),
        ({"mounts": [{"type": "volume", "source": "x", "target": "/opt"}]}, "T023"),
        ({"agent_runtime_image": "docker.io/x/y"}, "T024"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path, kwargs, id):
    with pytest.raises(SwerlError, match=f"SWERL-{id}"):
        environment(tmp_path, **kwargs)


def test_compose_tasks_are_refused(tmp_path):
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "docker-compose.yaml").write_text("services: {}\n")
    with pytest.raises(SwerlError, match="SWERL-T021"):
        environment(tmp_path, {})


def test_the_narrower_network_wins(tmp_path):
    from harbor.models.task.config import NetworkMode, NetworkPolicy

    closed = environment(tmp_path, network="public", network_policy=NetworkPolicy(network_mode=NetworkMode.NO_NETWORK))
    assert closed.spec().network == "none"
    assert environment(tmp_path, network="gateway", gateway="127.0.0.1:8002").spec().gateway_port == 8002


def test_a_tasks_resources_become_limits(tmp_path):
    made = environment(
        tmp_path, {"docker_image": "x", "cpus": 2, "memory_mb": 300, "storage_mb": 50}, limits={"processes": 9, "memory_mb": 5}
    )
    assert (made.spec().limits.memory_mb, made.spec().limits.disk_mb, made.spec().limits.cpus, made.spec().limits.processes) == (
        300,
        50,
        2.0,
        9,
    )
