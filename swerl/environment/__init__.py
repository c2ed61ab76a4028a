"""One environment, byte for byte: everything here starts from ``uv.lock`` and never resolves anything.

``lock`` reads the lock and says what an environment with given extras contains. ``site`` reads what is installed.
``verify`` compares the two: versions, every file's sha256, Python, CUDA, driver. ``records`` ties the RECORD of each installed wheel
to the wheel hash in the lock, so that a file and its RECORD cannot be changed together unseen. ``exports`` writes pylock.toml,
hashed requirements and an SBOM. ``bundle`` packs a locked environment for a host without network, and ``installer`` unpacks it there.

Invariants: nothing here imports torch, vllm, ray, verl, transformers or harbor; nothing here writes to an environment except the installer;
every output is a function of its inputs (no time, host name or path of the build machine in it).
"""
