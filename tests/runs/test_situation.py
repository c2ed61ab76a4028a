"""What a manifest says of the machine: nothing secret, and model digests that notice a change."""

from __future__ import annotations

import hashlib
import os

from swerl.runs.situation import HashedFiles, environ, processor


def test_variables_that_matter_are_kept_and_secrets_are_not():
    given = {"OMP_NUM_THREADS": "2", "HOME": "/root", "WANDB_API_KEY": "k", "HF_TOKEN": "t", "VLLM_API_KEY": "v", "SWERL_PASSWORD": "p"}
    assert environ(given) == {"OMP_NUM_THREADS": "2"}


def test_a_files_digest_is_remembered_and_a_change_is_seen(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    hashed = HashedFiles(tmp_path / "hashes.json")
    assert hashed.digests([file]) == {file: hashlib.sha256(b"one").hexdigest()}
    seen = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert HashedFiles(tmp_path / "hashes.json").digests([file])[file] == hashlib.sha256(b"one").hexdigest(), "size, time, inode: unread"
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    assert HashedFiles(tmp_path / "hashes.json").digests([file])[file] == hashlib.sha256(b"two").hexdigest()


def test_the_processor_is_the_cpus_model(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2.00GHz\n")
    assert processor(tmp_path / "cpuinfo") == "Some CPU @ 2.00GHz"
    assert isinstance(processor(tmp_path / "none"), str)
