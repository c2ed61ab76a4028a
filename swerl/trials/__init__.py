"""The trial runner: (task, sample, policy version) in, one graded and typed outcome out. Runs in the environment `trials`.

Contract
- One HTTP service per run (`service`), one writer of `trials/journal.jsonl` (`record.trial_journal`). A trial is named by its identity
  (split, task hash, sample, policy version); asking twice attaches or answers from the journal, never runs twice.
- An attempt is one Harbor trial (`attempt`) in one fresh sandbox with one gateway session. Harbor keeps the protocol (agents, verifiers,
  environments by import path); swerl keeps the clock, the outcome, the retries and the trust in the grade.
- What a result means is decided by one table (`record.outcomes`). An infrastructure failure is never a reward.
- Sandboxes carry the run id; only those are ever ended or removed (`reap`).

Nothing here imports torch, vLLM or verl; Harbor is imported only by the modules that run trials, after `LITELLM_LOCAL_MODEL_COST_MAP`.
"""
