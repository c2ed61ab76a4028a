"""The runner against the real gateway (train environment, scripted engine): one repair, token for token on record, and a closed session."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from trialkit import make_task, request_for, settings_for

from swerl.record.outcomes import Outcome
from swerl.trials.gateway import GatewayAdmin
from swerl.trials.service import Runner

pytestmark = [pytest.mark.trials, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


def test_a_repair_through_the_real_gateway(tmp_path):
    task, run = make_task(tmp_path), tmp_path / "run"
    run.mkdir()
    python = ROOT / ".venv" / "train" / "bin" / "python"
    with subprocess.Popen([python, Path(__file__).with_name("real_gateway.py"), run], stdout=subprocess.PIPE, text=True) as gateway:
        try:
            assert gateway.stdout.readline() == "ready\n"

            async def main():
                runner = Runner(settings_for(run))
                await runner.start()
                try:
                    result = await runner.scheduler.ask(request_for(task))
                finally:
                    await runner.stop()
                admin = GatewayAdmin(run / "services.json")
                recording = await admin._call("GET", f"/sessions/{result.session}/recording")
                await admin.shut()
                return result, recording

            result, recording = asyncio.run(main())
        finally:
            gateway.terminate()
    assert (result.outcome, result.reward, result.turns) == (Outcome.COMPLETED, 1.0, 3)
    assert "unread-record" not in {finding["kind"] for finding in result.info.get("findings", [])}, (
        "the runner reads what the gateway wrote"
    )
    assert recording["status"] == "closed: grading" and recording["turns"] == 3 and len(recording["paths"]) == 1
    path = recording["paths"][0]
    lengths = {len(path[name]) for name in ("response_ids", "response_mask", "response_logprobs", "versions")}
    assert len(lengths) == 1 and path["main"] and 0 < sum(path["response_mask"]) < len(path["response_mask"])
    assert recording["trial"] == {"split": "train", "task": "add", "sample": 0, "attempt": 1, "version": "a:0"}
