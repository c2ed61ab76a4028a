"""A run: one directory, one registry row, one supervisor at a time.

Contract. ``RunDir`` names every path. The registry says what state a run is in; what it says is checked against living processes, so a
``kill -9`` at any point leaves something the next command reads correctly. Only the holder of ``run.lock`` starts or ends processes of a
run, and it ends only processes it can show to be the run's own: started by a supervisor of this run, recorded with their start time, and
carrying the run's token in their environment. Nothing here imports torch, vLLM, Ray, verl, Harbor or W&B.
"""
