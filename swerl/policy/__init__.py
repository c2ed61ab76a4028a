"""The demo policy: a small Qwen3-shaped model with its own tokenizer, built and warm-started in one command, so that nothing binary is
committed.

``python -m swerl.policy --out DIR --seed N`` trains the tokenizer on generated train tasks, trains the model on demonstrations for a
fixed number of steps, measures it on held-out tasks and writes weights, tokenizer and ``model_card.json``. The demonstrations are of
mixed quality on purpose (``demonstrations``); the card and docs/demo-policy.md say how.

Modules: ``protocol`` (the words of a trial), ``tokenizer``, ``model``, ``demonstrations``, ``optimizer``, ``warmstart`` (training),
``emulate`` (trials without a sandbox, for measuring), ``reinforce`` (a small stand-in for the real trainer, for tuning recipes),
``recipe`` (numbers), ``build`` (the command). ``protocol``, ``demonstrations`` and ``recipe`` are pure; the others need the train
environment.
"""
