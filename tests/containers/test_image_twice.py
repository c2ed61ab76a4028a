"""An image built twice has one digest. Real builds on a base made here, without any registry; needs root, buildah and debootstrap."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swerl.environment.images import Request, build, sandbox_requirements

ROOT = Path(__file__).parents[2]
BASE = "localhost/swerl-test-base:bookworm"


@pytest.mark.long
def test_the_sandbox_image_has_one_digest():
    for tool in ("buildah", "debootstrap"):
        assert shutil.which(tool), f"install {tool}: `apt-get install --yes --no-install-recommends buildah debootstrap`"
    subprocess.run([str(ROOT / "containers" / "local-base.sh"), sys.base_prefix, BASE], check=True, capture_output=True)
    place = ROOT / "build" / "sandbox-requirements.txt"
    place.parent.mkdir(exist_ok=True)
    place.write_text(sandbox_requirements(ROOT))
    tags = [f"localhost/swerl-test-sandbox:{name}" for name in ("first", "second")]
    try:
        first, second = (build(Request(ROOT, "sandbox", "buildah", tag, base_image=BASE)) for tag in tags)
        assert first.digest == second.digest and first.digest.startswith("sha256:")
    finally:
        subprocess.run(["buildah", "rmi", "--force", *tags, BASE], check=False, capture_output=True)
