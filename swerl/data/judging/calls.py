"""calls.py DIRECTORY < ASKED: calls functions of the modules in DIRECTORY and prints their results, of which it knows none.

ASKED is JSON: ``nonce`` and ``calls``, a list of [module, call]. One line for each call: the nonce, the call's number, its result as JSON.
The last line is the nonce and "end". Each module is loaded anew for each call; what it prints goes to stderr.
"""

import importlib.util
import json
import os
import sys


def main(directory):
    asked = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for number, (name, call) in enumerate(asked["calls"]):
        spec = importlib.util.spec_from_file_location(name, "%s/%s.py" % (directory, name))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print(asked["nonce"], number, json.dumps(eval(call, vars(module))), file=results)
    print(asked["nonce"], "end", file=results)


if __name__ == "__main__":
    main(sys.argv[1])
