"""An environment from a bundle: what it takes from the host counts, what the bundle leaves out on purpose is not missed."""

import json

from swerl.environment.installer import HOST_PATHS, MANIFEST
from swerl.preflight.environments import _left_out, installed


def distribution(site, name):
    (site / f"{name}.dist-info").mkdir(parents=True)


def test_packages_of_the_host_count_and_the_bundles_own_come_first(tmp_path):
    own, host = tmp_path / "train" / "lib" / "python3.12" / "site-packages", tmp_path / "host"
    distribution(own, "ray-2.60.0")
    distribution(host, "torch-2.11.0")
    distribution(host, "ray-1.0.0")
    assert installed(tmp_path / "train") == {"ray": "2.60.0"}
    (own / HOST_PATHS).write_text(f"{host}\n")
    assert installed(tmp_path / "train") == {"ray": "2.60.0", "torch": "2.11.0"}


def test_what_the_bundle_dropped_is_known_by_environment(tmp_path):
    assert _left_out(tmp_path / "train") == set()
    dropped = ["train: av 19.0.2", "train: pyarrow/tests/x y.py", "train: top.py", "trials: other 1.0"]
    (tmp_path / MANIFEST).write_text(json.dumps({"dropped": dropped}))
    assert _left_out(tmp_path / "train") == {"av"}
