"""Signed reports of `judging.runner`: whether each of its starts in a sandbox came to its end, and what it said.

The secret that was put into the sandbox signs the first report, its hash the second, and so on; the last hash is left in the key file. A
start that was killed leaves neither a report nor a key, and code under test knows no secret: it is gone before such code runs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from swerl.trials.graders import Ended
from swerl.trials.sandboxes.received import read_file
from swerl.trials.screening import Finding

REPORT_BYTES = 32 << 20


def read(ended: Ended, name: str, key: str) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The reports, in their order, and what is wrong with them."""
    text = read_file(ended.logs, name, REPORT_BYTES)
    reports = []
    for line in (text or b"").splitlines():
        try:
            signed = json.loads(line)
            mac = hmac.new(key.encode(), signed["report"].encode(), hashlib.sha256).hexdigest()
            if not hmac.compare_digest(mac, str(signed["mac"])):
                return [], [Finding("report-forged", name)]
            reports.append(json.loads(signed["report"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [], [Finding("report-forged", name)]
        key = hashlib.sha256(key.encode()).hexdigest()
    if ended.key.strip() != key:
        return [], [Finding("runner-killed", f"after {len(reports)} whole runs of the tests")]
    return reports, [finding for report in reports for finding in _findings(report)]


def _findings(report: dict[str, Any]) -> list[Finding]:
    found = []
    if report["sentinels_passed"]:
        found.append(Finding("sentinel-passed", ", ".join(report["sentinels_passed"][:4])))
    if report["ended_early"]:
        found.append(Finding("tests-ended-early", "exit code 0, and not a result for every test"))
    return found + [Finding("left-running-by-tests", line) for line in report["left"]]


DECISIVE = frozenset({"sentinel-passed", "tests-ended-early", "report-forged", "runner-killed", "tests-changed", "tests-killed"})
