"""Seeing a run: an index over what its processes wrote, a server, one web page.

``follow`` reads growing files, ``take`` turns their lines into rows, ``index`` keeps those rows in SQLite, ``views`` answers questions from
them, ``server`` speaks HTTP. Sources are ``events/*.jsonl``, ``metrics.jsonl`` and the journals of runner and gateway; logs are shown,
never interpreted.

Invariants: a run's files are only read (its index is the one file added beside them, and may be deleted at any time); the index can be
stopped at any point and goes on where it was; no text from a client becomes a path; the server calls nobody.
"""
