"""The policy's build does not spin beside other work."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from swerl.policy import __main__ as verb
assert "torch" not in sys.modules, "torch reads the variable when it loads"
sys.argv = ["policy", "--measure", "/"]
try:
    verb.main()
except BaseException:
    pass
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_somebody_wants_otherwise(given, found):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    told = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert told.stdout.split()[-2:] == [found, "True"], told
