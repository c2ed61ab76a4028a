"""Trials to read: what was said, done and changed, what the verifier said. All of it is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swerl.report.markup import Markup, el
from swerl.report.sections import section
from swerl.report.summary import Summary
from swerl.report.words import duration, number


def transcripts(summary: Summary) -> Markup | None:
    if not summary.samples:
        return None
    note = el("p", "Resolved, unresolved and ungraded, of the newest weights; chosen by kind, not by look.", class_="note")
    return section("Trials to read", note, map(_trial, summary.samples))


def _trial(sample: Mapping[str, Any]) -> Markup:
    verdict = "no verdict" if sample["reward"] is None else "resolved" if sample["reward"] >= 1 else f"reward {number(sample['reward'])}"
    tone = "none" if sample["reward"] is None else "good" if sample["reward"] >= 1 else "bad"
    split = "validation" if sample["split"] == "val" else "training"
    facts = f"{split}, step {sample['step']}, {sample['outcome']}, {sample['turns'] or 0} turns, {duration(sample['total_s'])}"
    name = f"{sample['task_id'] or sample['key']} #{sample['sample']}"
    body = [
        el("p", f"{sample['key']}, weights {sample['version']}; {sample['fate']}.", class_="note"),
        el("p", sample["error"], class_="problem") if sample["error"] else None,
        [el("p", f"Detector: {finding.get('kind', '')} {finding.get('path', '')}", class_="problem") for finding in sample["findings"]],
    ]
    if sample["transcript"]:
        body.append(el("ol", map(_turn, sample["transcript"]), class_="transcript"))
        if sample["left_out"]:
            body.append(el("p", f"{sample['left_out']} more turns are not shown.", class_="note"))
    else:
        body.append(el("p", "No transcript is at hand.", class_="empty"))
    body += [_change(change) for change in sample["changes"]]
    body += [[el("h4", file["name"]), el("pre", file["text"], tabindex=0)] for file in sample["files"]]
    return el(
        "details",
        el("summary", el("b", verdict, class_=f"verdict {tone}"), el("span", name), el("span", facts, class_="note")),
        body,
        class_="trial",
    )


def _turn(step: Mapping[str, Any]) -> Markup:
    parts: list[Any] = [el("b", step["source"] or "?", class_="source")]
    if step["reasoning"]:
        parts.append(el("pre", step["reasoning"], class_="reasoning"))
    if step["text"]:
        parts.append(el("pre", step["text"], class_="said"))
    for call in step["calls"]:
        arguments = [
            el("pre", f"{name}: {value}" if name and len(call["arguments"]) > 1 else value) for name, value in call["arguments"].items()
        ]
        parts.append(el("div", el("b", call["name"] or "tool"), arguments, class_="call"))
    parts += [el("pre", result["text"] or "(nothing)", class_="result", tabindex=0) for result in step["results"]]
    return el("li", parts, class_="agent" if step["source"] == "agent" else None)


def _change(change: Mapping[str, Any]) -> list[Markup]:
    if change["diff"] is None:
        return [el("h4", f"{change['name']} as the agent left it"), el("pre", change["text"] or "", tabindex=0)]
    lines = [el("span", line + "\n", class_=_kind(line)) for line in change["diff"]]
    return (
        [el("h4", f"{change['name']}, changed" if lines else f"{change['name']}, unchanged"), el("pre", lines, class_="diff", tabindex=0)]
        if lines
        else []
    )


def _kind(line: str) -> str | None:
    if line.startswith(("+++", "---")):
        return None
    return {"+": "add", "-": "del", "@": "at"}.get(line[:1])
