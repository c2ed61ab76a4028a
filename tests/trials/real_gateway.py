"""The real gateway with its scripted engine, as a process of the train environment: ``python real_gateway.py RUN_DIR [TROUBLE]``.

The script is a policy that reads the file, repairs it and says done. Writes its part of services.json and prints "ready". The engine's
trouble comes with its second turn: ``dies`` is an engine that is gone, and another one some seconds later; ``fails`` is one that fails the
requests of the first session.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gateway"))
from gatewaykit import CHATML, call_text, write_model

from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply, register
from swerl.gateway.service import Gateway
from swerl.gateway.settings import GatewaySettings

TURNS = (call_text("cat -n calc.py"), call_text("sed -i '2s/a - b/a + b/' calc.py"), "done")
AWAY_S = 6.0


async def main(run_dir: Path, trouble: str = "") -> None:
    model = run_dir / "model"
    model.mkdir()
    write_model(model, CHATML)
    reached, first = asyncio.Event(), []

    def script(turn):
        first.append(turn.session)
        if turn.turn >= 1 and turn.session == first[0] and trouble:
            reached.set()
            return ScriptReply(text=TURNS[1], delay_s=60.0) if trouble == "dies" else ScriptReply(token_ids=[])
        return TURNS[turn.turn]

    engine = ScriptedEngine(script, model)
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
    await gateway.reader.ready()
    print("ready", flush=True)
    if trouble == "dies":
        await reached.wait()
        await engine.stop()
        await asyncio.sleep(AWAY_S)
        engine = ScriptedEngine(script, model, epoch=2)
        await engine.start()
        await register(engine, settings.services_path)
    await gateway.ended.wait()
    await gateway.stop()
    await engine.stop()


asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
