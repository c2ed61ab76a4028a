"""The forecast: what a run will need and how long it will take, from the policy's ``config.json`` and the profile alone.

Contract. Nothing here looks at the machine; the size of a GPU and the rates of hardware are arguments. ``facts.shape`` counts the policy,
``facts.memory`` the bytes (exact where it can be, and marked where not), ``timing`` a step by phases, from ``rates`` that are assumed or
taken from a run that was measured, ``advice`` tries single settings and names those that would help most, ``outlook`` puts them together,
``text`` says them, and ``compare`` holds a forecast against the run it was about.
"""
