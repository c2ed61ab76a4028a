"""The run profile: one file says everything about a run.

`load` reads ``config.yaml``, lays a profile and ``--set`` values over it, checks the whole against ``schema/config.schema.json`` and
returns a frozen, typed `RunConfig`. What holds afterwards: every key has a value of its declared type; every path is absolute; automatic
values are decided; secrets are apart from the rest. Cross-field rules that need arithmetic or a machine are preflight's.

Importing this package loads nothing heavy; validating a file takes well under half a second.
"""

from swerl.config.load import Examined, dump_resolved, examine, load, load_resolved
from swerl.config.migrate import migrate
from swerl.config.runconfig import RunConfig, Secrets

__all__ = ["Examined", "RunConfig", "Secrets", "dump_resolved", "examine", "load", "load_resolved", "migrate"]
