"""What a run writes, and how its processes speak: the ground floor that every other room may stand on.

Nouns and pure functions that several processes share: the run's directory and registry row, its lock, events, metrics, journals and
checkpoints, the identity and outcome of a trial, the addresses of its services. Each file has one writer; a reader changes nothing.

Imports `swerl.config` and `swerl.errors` only, and nothing heavy.
"""
