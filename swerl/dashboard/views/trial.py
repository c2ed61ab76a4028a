"""One trial, as close as one can get: what was said and done, what it changed, what the verifier said, what the detectors found.

The transcript is the gateway's record: what was sampled and, where the tokenizer can be read, what it was shown. What the agent wrote about
itself (ATIF, ``agent/trajectory.json``) may be anything; it is among the files under that name, and is the transcript only where there is
no record, as in an archive.
Everything a sandbox wrote is text to be shown, cut to a size; see `files`.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import orjson

from swerl.dashboard.context import Seen, json_of
from swerl.dashboard.files import plain_files, read_text
from swerl.dashboard.views.session import contexts_of, session_path, session_tree

MAX_STEPS = 2000
MAX_TEXT = 20_000
OWN_ACCOUNT = ("agent", "trajectory.json")
ACCOUNT = ": what the agent wrote about itself"
SHOWN_FILES = (
    ("trial.log",),
    ("exception.txt",),
    ("verifier", "test-stdout.txt"),
    ("verifier", "test-stderr.txt"),
    ("verifier", "reward.json"),
    ("verifier", "reward.txt"),
    ("agent", "setup", "stdout.txt"),
)


def trial(seen: Seen, key: str) -> dict[str, Any] | None:
    """None when the index knows no such trial."""
    row = seen.db.execute("SELECT * FROM trials WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    entry = dict(row)
    more = entry.pop("more")
    entry["more"] = _object(more)
    entry["task_id"] = seen.tasks().get(row["task"])
    entry["siblings"] = [
        dict(other)
        for other in seen.rows(
            "SELECT key, sample, attempt, outcome, reward, fate, total_s FROM trials WHERE task = ? AND step = ? AND split = ?"
            " ORDER BY sample, attempt",
            row["task"], row["step"], row["split"],
        )
    ]  # fmt: skip
    entry["events"] = [
        {**dict(event), "data": _object(event["data"])}
        for event in seen.rows(
            "SELECT time, kind, data FROM events WHERE trial IN (?, ?) ORDER BY time LIMIT 200",
            key, f"{row['split']}|{row['task']}|{row['sample']}|{row['version']}",
        )
    ]  # fmt: skip
    directory = trial_directory(seen, key)
    entry["files"] = []
    entry["changes"] = []
    entry["transcript"], entry["transcript_from"] = None, None
    if directory is not None:
        entry["files"] = [
            {"name": "/".join(parts), "text": found.text[-MAX_TEXT * 5 :], "bytes": found.bytes}
            for parts in SHOWN_FILES
            if (found := read_text(directory, *parts)) is not None and found.text.strip()
        ]
        entry["changes"] = changes(directory)
    path = session_path(seen, row["session"])
    entry["session_tree"] = session_tree(path) if path is not None else None
    if entry["session_tree"] is not None:
        entry["transcript"], entry["transcript_from"] = _recorded(seen, row["session"], entry["session_tree"])
        if directory is not None and (own := read_text(directory, *OWN_ACCOUNT)) is not None:
            entry["files"].append({"name": "/".join(OWN_ACCOUNT) + ACCOUNT, "text": own.text[: MAX_TEXT * 5], "bytes": own.bytes})
    elif directory is not None and (steps := transcript(directory)) is not None:
        entry["transcript"], entry["transcript_from"] = steps, "/".join(OWN_ACCOUNT) + ACCOUNT
    return entry


def trial_directory(seen: Seen, key: str) -> Path | None:
    """Where the trial's files are: in the run, or in the sample of an archive. ``key`` is one that the index knows."""
    if not key or "/" in key or key in (".", ".."):
        return None
    given = seen.value("experiment.trials_dir")
    places = [seen.run.root / "trajectories", *([Path(given)] if given else [])]
    return next((place / key for place in places if (place / key).is_dir()), None)


def transcript(directory: Path) -> list[dict[str, Any]] | None:
    """Steps of the agent's record; None when it wrote none that can be read."""
    found = read_text(directory, *OWN_ACCOUNT, limit=64 << 20)
    if found is None:
        return None
    try:
        steps = _parsed(found.text)["steps"]
        return [_step(step) for step in steps[:MAX_STEPS]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):  # the sandbox may have written anything there
        return None


def _parsed(text: str) -> Any:
    """JSON as Python writes it too: halves of surrogate pairs, which terminals produce and orjson refuses, become question marks."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))


def _step(step: dict[str, Any]) -> dict[str, Any]:
    results = (step.get("observation") or {}).get("results") or []
    return {
        "source": str(step.get("source", "")),
        "time": step.get("timestamp"),
        "text": _cut(step.get("message")),
        "reasoning": _cut(step.get("reasoning_content")),
        "calls": [
            {"id": call.get("tool_call_id"), "name": call.get("function_name"), "arguments": _arguments(call.get("arguments"))}
            for call in step.get("tool_calls") or []
        ],
        "results": [{"id": result.get("source_call_id"), "text": _cut(result.get("content"))} for result in results],
    }


def _recorded(seen: Seen, session: str, tree: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Turns of the main path, each with the text that it was added to."""
    turns = [turn for turn in tree["turns"] if turn["main"]][:MAX_STEPS]
    shown = contexts_of(seen, session, [turn["id"] for turn in turns])
    steps = []
    for turn in turns:
        if shown is not None:
            steps.append({"source": "user", "time": None, "text": _cut(shown[turn["id"]]), "reasoning": None, "calls": [], "results": []})
        steps.append(_from_answer(turn))
    return steps, "the gateway's record" if shown is not None else "the gateway's record: answers only, the tokenizer cannot be read here"


def _from_answer(turn: dict[str, Any]) -> dict[str, Any]:
    answer = turn["answer"]
    calls = [
        {"id": id, "name": name, "arguments": _arguments(_object(arguments) or {"": arguments})} for id, name, arguments in answer["calls"]
    ]
    return {
        "source": "agent",
        "time": None,
        "text": _cut(answer["content"]),
        "reasoning": _cut(answer["reasoning"]),
        "calls": calls,
        "results": [],
    }


def changes(directory: Path) -> list[dict[str, Any]]:
    """Files the agent changed, as unified diffs where the task's own copy can be read, else as they are."""
    root = directory / "answer"
    if root.is_symlink() or not root.is_dir():
        return []
    task = (json_of(directory / "config.json").get("task") or {}).get("path")
    original = Path(task) / "environment" if isinstance(task, str) else None
    found = []
    for parts in plain_files(root):
        after = read_text(root, *parts, limit=256 << 10)
        if after is None:
            continue
        before = read_text(original, *parts, limit=256 << 10) if original is not None and original.is_dir() else None
        name = "/".join(parts)
        lines = None
        if before is not None:
            lines = list(difflib.unified_diff(before.text.splitlines(), after.text.splitlines(), f"a/{name}", f"b/{name}", lineterm=""))
        found.append({"name": name, "diff": lines, "text": None if lines is not None else _cut(after.text), "bytes": after.bytes})
    return found


def _arguments(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {"": _cut(value) or ""}
    return {
        str(name): _cut(text if isinstance(text, str) else orjson.dumps(text, default=str).decode()) or "" for name, text in value.items()
    }


def _cut(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):  # content in parts
        value = "\n".join(str(part.get("text", part)) if isinstance(part, dict) else str(part) for part in value)
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n… {len(text) - MAX_TEXT} characters left out"


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
