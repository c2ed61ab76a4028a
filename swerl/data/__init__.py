"""Task sets: directories in Harbor's layout, indexes that point at them, and the tools that make, check and sift both.

Contract
- A task is a directory (task.toml, instruction.md, environment/, solution/, tests/). Its identity is ``task_hash(dir)``: the hash of what
  it holds, never of where it lies.
- An index is a parquet file whose rows point at tasks by a path relative to the index file's own directory, with the hash beside it; an
  index and its tasks can be moved together to another machine.
- Nothing here imports torch, transformers, verl or harbor: trials are run by whoever calls, through a callable.

Modules: ``hashing`` (identity), ``index`` (rows: build, read, merge, split, filter), ``doctor`` (oracle must pass, no-op must fail),
``convert`` (SWE-bench-like records), ``generate`` (the seeded demo tasks).
"""

from swerl.data.hashing import task_hash

__all__ = ["task_hash"]
