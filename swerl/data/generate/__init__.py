"""Seeded generator of small repair tasks: a Python repository with one injected bug, hidden tests and a gold fix.

Steps, one module each: ``families`` (what functions exist and which bugs each can have, as data), ``repair`` (a repository with one bug,
its issue text, its gold edit), ``harbor`` (the task on disk, in Harbor's layout), ``__main__`` (``python -m swerl.data.generate``: train
and val sets and their indexes).

Held out means: a function body (with its variable names, constants and docstring) belongs to exactly one split, whatever the function is
called and whichever bug it gets. So no file, repository, buggy function or patch of ``val`` occurs in ``train``, and demonstrations come
from ``train`` alone. Not held out: the eleven families and nine kinds of bug themselves, and bodies that become equal once variables are
renamed (``return max(a, b)`` and ``return max(p, q)``). Val asks for known skills on new code, not for new skills.
"""

from swerl.data.generate.repair import RepairTask, Split, make_task, make_tasks

__all__ = ["RepairTask", "Split", "make_task", "make_tasks"]
