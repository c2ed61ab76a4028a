"""kill -9 of the runner, the gateway and the whole tree at every phase of a trial, on the scripted engine.

What finished is kept and counted once, every verdict is right, work goes on by itself (runner, gateway) or with the same command (tree),
and nothing is left. Kills of a real trainer are in tests/e2e.
"""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from crashkit import PHASES, Killer, Scene, kill_tree, through

pytestmark = pytest.mark.slow
BACK_S = 30.0  # promised on an idle machine
PATIENCE = 5.0  # a test machine is not idle


@pytest.mark.parametrize("victim", ["runner", pytest.param("gateway", marks=pytest.mark.long)])
def test_a_killed_service_at_every_phase(tmp_path, victim, capsys):
    scene = Scene(tmp_path)
    killer = Killer(scene, victim)
    found = through(scene, killer)
    scene.check(found)
    assert not killer.left, f"no trial came to {killer.left}"
    with capsys.disabled():
        print(f"\nuseful work again after a kill of the {victim}:", {phase: f"{s:.1f} s" for phase, s in killer.back_s.items()})
    assert max(killer.back_s.values()) < BACK_S * PATIENCE
    if victim == "gateway":  # time, and nothing else: every trial is in its first attempt
        assert {result["attempts"] for result in scene.settled()} == {1}
        assert all(result["trial_name"].endswith("-1") for result in scene.settled())


@pytest.mark.parametrize("phase", [pytest.param(p, marks=() if p == "agent" else pytest.mark.long) for p in PHASES])
def test_the_whole_tree_at(tmp_path, phase):
    """Somebody else's process, marked as another run's, lives through the death and the clean-up after it."""
    scene = Scene(tmp_path)
    bystander = subprocess.Popen(["sleep", "4324"], env={"SWERL_RUN_ID": "another-run", "PATH": "/usr/bin:/bin"})
    try:
        kill_tree(scene, phase)
        kept = {result["trial_name"] for result in scene.settled()}
        outcome, found = scene.carry_out()
        assert found is not None, outcome
        scene.check(found)
        assert kept <= {result["trial_name"] for result in scene.settled()}
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
