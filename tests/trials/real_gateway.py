"""The real gateway with its scripted engine, as a process of the train environment: ``python real_gateway.py RUN_DIR``.

The script is a policy that reads the file, repairs it and says done. Writes its part of services.json and prints "ready".
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gateway"))
from gatewaykit import CHATML, call_text, write_model

from swerl.gateway.engines.scripted import ScriptedEngine, register
from swerl.gateway.service import Gateway
from swerl.gateway.settings import GatewaySettings

TURNS = (call_text("cat -n calc.py"), call_text("sed -i '2s/a - b/a + b/' calc.py"), "done")


async def main(run_dir: Path) -> None:
    model = run_dir / "model"
    model.mkdir()
    write_model(model, CHATML)
    engine = ScriptedEngine(lambda turn: TURNS[turn.turn], model)
    await engine.start()
    settings = GatewaySettings(
        model_path=model,
        journal_dir=run_dir / "gateway",
        events_path=run_dir / "gateway.jsonl",
        services_path=run_dir / "services.json",
        tool_parser="hermes",
    )
    gateway = Gateway(settings)
    await gateway.start()
    await register(engine, settings.services_path)
    print("ready", flush=True)
    await gateway.ended.wait()
    await gateway.stop()
    await engine.stop()


asyncio.run(main(Path(sys.argv[1])))
