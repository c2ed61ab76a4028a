"""The list of trials: whichever index answers, it is what walking through all of them gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from swerl.dashboard.context import Seen
from swerl.dashboard.index import RunIndex, wait_until_read
from swerl.dashboard.views import trial, trials
from swerl.dashboard.views.session import load_tokenizer
from swerl.record.rundir import RunDir

WHERES = (
    {},
    {"split": "val"},
    {"split": "train", "step": 3},
    {"outcome": "agent_timeout"},
    {"fate": "no signal", "split": "train"},
    {"text": "off-by-one"},
    {"text": "SandboxStart"},
    {"text": "no_such%word"},
    {"text": "off-by-one", "split": "val", "resolved": True},
    {"findings": True},
    {"findings": True, "resolved": False},
    {"resolved": False, "outcome": "completed"},
)
FIELDS = {"newest": "settled", "slowest": "total_s", "turns": "turns", "tokens": "sampled_tokens", "reward": "reward"}


@pytest.fixture(scope="module")
def seen(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    index = RunIndex(RunDir.at(made), tmp_path_factory.mktemp("index") / "index.sqlite")
    wait_until_read(index)
    with index.reading() as db:
        yield Seen(index.run, db)
    index.close()


def fits(row: dict, where: dict) -> bool:
    return (
        all(row[name] == where[name] for name in ("split", "step", "outcome", "fate") if name in where)
        and (not where.get("findings") or row["findings"] > 0)
        and ("resolved" not in where or (row["reward"] is not None and (row["reward"] >= 1) == where["resolved"]))
        and ("text" not in where or where["text"].lower() in f"{row['key']} {row['error']}".lower())
    )


@pytest.mark.parametrize("few", [0, 20, 5000])
@pytest.mark.parametrize("order", FIELDS)
def test_every_way_to_a_list_gives_the_same(seen: Seen, order: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "FEW", few)
    everything = [dict(row) for row in seen.rows("SELECT * FROM trials")]
    for where in WHERES:
        wanted = [row for row in everything if fits(row, where)]
        found = trials.listed(seen, where=where, order=order, limit=500, offset=0)
        values = [row[FIELDS[order]] for row in found["trials"]]
        assert found["total"] == len(wanted) and {row["key"] for row in found["trials"]} == {row["key"] for row in wanted}, where
        assert values == sorted(values, key=lambda value: (value is not None, value), reverse=True), where
        half = len(wanted) // 2
        rest = trials.listed(seen, where=where, order=order, limit=500, offset=half)
        assert [row[FIELDS[order]] for row in rest["trials"]] == values[half:], where
        assert trials.listed(seen, where=where, order=order, limit=500, offset=len(wanted))["trials"] == []


def test_a_transcript_is_the_gateways_record_and_not_the_agents(run_dir: Path, tmp_path: Path) -> None:
    """The agent's file says something else, and is shown under a name that says whose it is."""
    vocabulary = {word: number for number, word in enumerate(("fix", "add", "now", "calc.py", "?"))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    config = orjson.loads((run_dir / "resolved.json").read_bytes())
    config["config"]["experiment"]["trials_dir"] = str(run_dir / "trials" / "made")
    config["config"]["model"]["model_path"] = str(tmp_path / "model")
    (run_dir / "resolved.json").write_bytes(orjson.dumps(config))
    place = {"copy_of": None, "signature": "", "tools": 0, "covers": 0}
    call = {"content": "", "reasoning": "look first", "calls": [["1", "bash", '{"command": "curl http://x"}']], "finish": "tool_calls"}
    turn = {"logprobs": [-0.5], "versions": [0], "probe": False, "cached": 0, "hold_s": 0.0, "model_s": 1.0, "time": 5.0}
    lines = (
        {"k": "open", "time": 4.0},
        {"k": "ctx", "id": 0, "parent": None, "key": "00", "tokens": [0, 1, 2], **place},
        {"k": "turn", "id": 1, "parent": 0, "tokens": [3], "answer": call, **turn},
        {"k": "seen", "turn": 1},
        {"k": "ctx", "id": 2, "parent": 1, "key": "01", "tokens": [3], **place},
        {"k": "turn", "id": 3, "parent": 2, "tokens": [1], "answer": {**call, "content": "done", "calls": [], "finish": "stop"}, **turn},
        {"k": "close", "reason": "grading", "hold_s": 0.0, "aborted": 0},
    )
    sessions = run_dir / "gateway" / "sessions"
    sessions.mkdir(parents=True)
    (sessions / "0123456789abcdef.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    index = RunIndex(RunDir.at(run_dir))
    wait_until_read(index)
    with index.reading() as db:
        key = db.execute("SELECT key FROM trials WHERE total_s IS NOT NULL LIMIT 1").fetchone()["key"]
    with sqlite3.connect(index.path) as db:
        db.execute("UPDATE trials SET session = '0123456789abcdef' WHERE key = ?", (key,))
    agent = run_dir / "trials" / "made" / key / "agent"
    agent.mkdir(parents=True)
    (agent / "trajectory.json").write_text('{"steps": [{"source": "agent", "message": "I fixed it honestly."}]}')

    def shown() -> dict:
        with index.reading() as db:
            return trial.trial(Seen(RunDir.at(run_dir), db), key)

    found = shown()
    assert found["transcript_from"] == "the gateway's record"
    assert [(step["source"], step["text"]) for step in found["transcript"]] == [
        ("user", "fix add now"), ("agent", ""), ("user", "calc.py"), ("agent", "done"),
    ]  # fmt: skip
    assert found["transcript"][1]["calls"] == [{"id": "1", "name": "bash", "arguments": {"command": "curl http://x"}}]
    [own] = [file for file in found["files"] if "trajectory" in file["name"]]
    assert own["name"] == "agent/trajectory.json: what the agent wrote about itself" and "honestly" in own["text"]
    (tmp_path / "model" / "tokenizer.json").unlink()
    load_tokenizer.cache_clear()
    assert shown()["transcript_from"] == "the gateway's record: answers only, the tokenizer cannot be read here"
    (sessions / "0123456789abcdef.jsonl").unlink()
    found = shown()
    assert found["transcript_from"] == "agent/trajectory.json: what the agent wrote about itself"
    assert [step["text"] for step in found["transcript"]] == ["I fixed it honestly."]
    index.close()
