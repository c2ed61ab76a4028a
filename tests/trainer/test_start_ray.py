"""Ray's workers start from a checkout wherever it lies."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow]
CODE = """
import sys
from swerl.trainer.__main__ import compose, start_ray
import ray

init = {"num_cpus": 1, "+include_dashboard": False, "+_temp_dir": sys.argv[1], "+object_store_memory": 100_000_000}
init["+runtime_env.env_vars.A"] = "b"
plus = {f"{'+' if key[0] == '+' else ''}ray_kwargs.ray_init.{key.lstrip('+')}": value for key, value in init.items()}
start_ray(compose([f"{key}={value}" for key, value in plus.items()], None))


@ray.remote
def where():
    import os, sys
    return sys.executable, os.environ["A"]


@ray.remote
class Actor:
    def where(self):
        return ray.get(where.remote())


named = Actor.options(runtime_env={"env_vars": {"C": "d"}}).remote()
print(*ray.get(named.where.remote(), timeout=100), sep="|", flush=True)
ray.shutdown()
"""


@pytest.mark.parametrize("name", ["a path", "größe", "it's $HOME; (x)"])
def test_workers_start_in_a_path_that_a_shell_reads_otherwise(tmp_path, name):
    venv = tmp_path / name / "venv"
    venv.parent.mkdir()
    venv.symlink_to(Path(sys.prefix))
    scratch = f"/tmp/swerl-test-{uuid.uuid4().hex[:8]}"
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    try:
        done = subprocess.run([venv / "bin" / "python", "-c", CODE, scratch], env=environment, capture_output=True, text=True, timeout=200)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"{venv / 'bin' / 'python'}|b"
