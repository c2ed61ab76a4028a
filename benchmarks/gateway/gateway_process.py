"""The gateway with everything on, for measurement: ``python gateway_process.py POLICY_DIR WORK_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from swerl.gateway.limits import raise_open_files
from swerl.gateway.service import serve
from swerl.gateway.settings import GatewaySettings

if __name__ == "__main__":
    policy, work = Path(sys.argv[1]), Path(sys.argv[2])
    raise_open_files()
    uvloop.run(
        serve(
            GatewaySettings(
                model_path=policy,
                journal_dir=work / "gateway",
                events_path=work / "events.jsonl",
                services_path=work / "services.json",
                window_tokens=1_000_000,
                max_sessions=100_000,
                keepalive_s=600,
            )
        )
    )
