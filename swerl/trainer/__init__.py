"""What runs inside verl: the trainer process, its agent-loop manager and the bridge to the engine.

Started by the supervisor as ``python -m swerl.trainer --run-dir R`` in the ``train`` environment, in a process group of its own.

- ``__main__``     picks the newest checkpoint that verifies, composes verl's config, runs the task, and refuses a run that trained nothing
- ``task``         the Ray actor that owns verl's trainer object
- ``modes``        verl's sync and colocate_async trainers with our hooks: pause and resume of the gateway, metrics, checkpoints, stop
- ``manager``      agent-loop manager and worker: one group of trials in, settled rows out
- ``rollout``      one trial: ask the runner, read the recording from the gateway, turn it into rows
- ``rows``         pure: recording and verdict to training rows
- ``bridge``       token-in, token-out HTTP endpoint over verl's own client, for the gateway
- ``local``        verl's vLLM replica with its HTTP server closed
- ``replay``       verl's replay buffer with a short poll and a watchdog
- ``cpu``          the CPU as a verl platform

Invariants: a trial that is not in the loss writes no row at all; a group is published only after all its trials have settled; a group
with fewer than two rows' worth of sessions is refilled, never trained; a checkpoint counts only after its metrics row is on disk.
"""
