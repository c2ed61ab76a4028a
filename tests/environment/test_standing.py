"""What a manifest says of an environment: one digest over its packages, and the last full comparison as long as it holds."""

from __future__ import annotations

from swerl.environment.installed import read_environment
from swerl.environment.lock import load_lock
from swerl.environment.standing import note, packages_sha256, standing
from swerl.environment.verify import verify

from .conftest import install


def test_the_digest_speaks_of_recorded_content(project):
    lock = load_lock(project / "uv.lock")
    before = standing(project / "env", lock)
    assert before["extras"] == ["one"] and before["packages"] == 2 and before["problems"] == [] and before["verified"] is None
    install(project / "env/lib/python3.12/site-packages", "delta", "9", {"delta.py": b""})
    after = standing(project / "env", lock)
    assert after["packages_sha256"] != before["packages_sha256"] and any("SWERL-E005" in text for text in after["problems"])


def test_a_full_comparison_is_remembered_until_a_package_changes(project, anchors):
    lock, env = load_lock(project / "uv.lock"), read_environment(project / "env")
    assert note(env, lock, verify(env, lock, ["one"], anchors))
    found = standing(project / "env", lock)["verified"]
    assert found["ok"] and found["packages_sha256"] == packages_sha256(env, lock.project) and found["lock_sha256"] == lock.sha256
    install(project / "env/lib/python3.12/site-packages", "delta", "9", {"delta.py": b""})
    assert standing(project / "env", lock)["verified"] is None


def test_what_is_no_environment_is_said_to_be_none(tmp_path, project):
    assert "SWERL-E002" in standing(tmp_path / "none", load_lock(project / "uv.lock"))["problems"][0]
