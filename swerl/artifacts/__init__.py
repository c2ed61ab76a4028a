"""What remains of a run: one archive with everything a reader needs to judge it, and one row in the ledger.

``gather.gather(run_dir)`` writes ``artifacts/archives/run_NNN/`` and adds a row to ``artifacts/index.yaml``. ``record.results`` holds the
statistics as pure functions; ``record.redact`` keeps secrets out; ``ledger`` allots numbers under a lock. Gathering an unchanged run again
gives the archive that is there; a run that went on gets a new one, whose row says which it supersedes.

Invariants: an archive appears whole or not at all; two gatherings at once never share a number; no secret is in an archive; the run's own
directory is only read.
"""
