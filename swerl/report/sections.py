"""Sections about one run. Each is a function from a summary to markup, or None when the run has nothing to say there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swerl.report import svg
from swerl.report.figures import Figure
from swerl.report.markup import Markup, el
from swerl.report.summary import Summary
from swerl.report.words import NONE, count, day, duration, interval, percent, setting

MOST_TASKS = 60
MEANING: Mapping[str, str] = {
    "trained": "in the loss, in a group whose rewards differ",
    "no signal": "in the loss, but all rewards of the group are equal",
    "masked": "graded, kept out of the loss",
    "killed": "ended by the tail-killer or cancelled",
    "failed": "no verdict: sandbox, verifier or host broke",
    "superseded": "under weights that were left behind",
    "run again": "settled without a verdict, asked for again",
    "validation": "measured the policy",
    "other": "saving and what no trial can be charged with",
}


def best_validation(summary: Summary) -> Mapping[str, Any] | None:
    """Of those with enough coverage to be compared; the earlier of equals."""
    published = [v for v in summary.validations if v["published"] and v["value"] is not None]
    return max(published, key=lambda v: (v["value"], -v["step"])) if published else None


def headline(summary: Summary) -> Markup:
    first, best = next(iter(summary.validations), None), best_validation(summary)
    facts: list[tuple[str, str, str]] = []
    if best is not None:
        facts.append(
            ("Best validation", percent(best["value"]), f"step {best['step']}, 95 % interval {interval(best['low'], best['high'])}")
        )
    if first is not None and first is not best and first["value"] is not None:
        facts.append(("First validation", percent(first["value"]), f"step {first['step']}, {interval(first['low'], first['high'])}"))
    settled = sum(entry["trials"] for steps in summary.steps.values() for entry in steps)
    spent = summary.cost
    facts += [
        ("Steps", f"{summary.step} of {summary.total_steps}" if summary.total_steps else str(summary.step), f"state: {summary.state}"),
        ("Trials", count(settled) if settled else NONE, "settled, validation included" if settled else "no journal at hand"),
        (f"{'GPU' if spent['devices'] else 'Host'} time", duration(spent["device_s"]), f"{percent(spent['useful'], 0)} of it trained"),
        ("Tokens sampled", count(spent["tokens"]) if spent["tokens"] else NONE, "" if spent["tokens"] else "not recorded by this run"),
    ]
    return el("dl", [el("div", el("dt", name), el("dd", value, el("small", note))) for name, value, note in facts], class_="figures")


def origin(summary: Summary) -> Markup:
    """Where it came from: what has to be known to do it again."""
    host, versions = summary.host, summary.versions
    gpus = host.get("gpus") or []
    machine = f"{host.get('cpus', '?')} cores, {round(host.get('memory_mb', 0) / 1024)} GiB" if host else NONE
    packages = [f"{name} {v}" for env in versions.values() if isinstance(env, Mapping) for name, v in sorted(env.items())]
    rows = [
        ("project", summary.project or NONE),
        ("began", day(summary.started)),
        ("ended", day(summary.ended)),
        ("starts", str(summary.attempts)),
        ("commit", (summary.commit or NONE) + (" with uncommitted changes" if summary.dirty else "")),
        ("machine", machine + (f", {len(gpus)} × {str(gpus[0]).partition(',')[0]}" if gpus else "")),
        ("command", " ".join(summary.command) or NONE),
        ("versions", ", ".join(dict.fromkeys(packages)) or NONE),
    ]
    if summary.problem:
        rows.insert(0, ("problem", summary.problem))
    return section("Origin", el("table", [el("tr", el("th", name, scope="row"), el("td", value)) for name, value in rows], class_="facts"))


def curves(drawn: Sequence[Figure]) -> Markup | None:
    if not drawn:
        return section("Curves", el("p", "No step is in this run's metrics.", class_="empty"))
    return section("Curves", el("div", [curve(figure) for figure in drawn], class_="charts"))


def curve(figure: Figure) -> Markup:
    key = None
    if len(figure.lines) > 1:
        key = el("ul", [el("li", el("i", class_=f"swatch t-{line.tone}"), line.label) for line in figure.lines], class_="key")
    return el("figure", el("figcaption", figure.title), svg.inline(figure), key)


def validations(summary: Summary) -> Markup | None:
    if not summary.validations:
        return None
    passes = list(dict.fromkeys(k for v in summary.validations for k in v["pass_at"]))
    head = ["step", "resolve rate", "95 % interval", "resolved", "graded", "coverage", *(f"pass@{k}" for k in passes)]
    rows = [
        [
            str(v["step"]), percent(v["value"]), interval(v["low"], v["high"]), count(v["resolved"]), count(v["graded"]),
            percent(v["coverage"], 0) + ("" if v["published"] else " (thin)"), *(percent(v["pass_at"].get(k)) for k in passes),
        ]
        for v in summary.validations
    ]  # fmt: skip
    return section("Validations", table(head, rows, numeric=range(len(head))))


def outcomes(summary: Summary) -> Markup | None:
    """Trials by what ended them, in training and validation."""
    sums: dict[str, dict[str, int]] = {}
    for split, steps in summary.steps.items():
        for step in steps:
            for outcome, trials in step["outcomes"].items():
                sums.setdefault(outcome, {"train": 0, "val": 0})[split] += trials
    if not sums:
        return None
    rows = [[name, count(row["train"]), count(row["val"])] for name, row in sorted(sums.items(), key=lambda e: -sum(e[1].values()))]
    return section("How trials ended", table(["outcome", "training", "validation"], rows, numeric=(1, 2)))


def cost(summary: Summary) -> Markup | None:
    spent = summary.cost
    names = [name for name in MEANING if name in spent["fates"]]
    if not names:
        return None
    unit, whole = spent["unit"], spent["device_s"]
    rows = []
    for name in names:
        fate = spent["fates"][name]
        device_s = fate.get("device_s", 0.0)
        told = [count(fate[key]) if fate.get(key) else NONE for key in ("trials", "sampled_tokens")]
        rows.append([name, duration(device_s), percent(device_s / whole if whole else None), *told, MEANING[name]])
    each = spent["device_s_per_resolved"]
    note = f"A step's sampling time is shared out by {spent['by']}; training time goes to the trials in the loss."
    if each is not None:
        note += f" Everything included, a resolved training trial took {duration(each)} of {unit} time."
    head = ["became", f"{unit} time", "share", "trials", "tokens sampled", "which are"]
    return section("What it cost, by what became of it", table(head, rows, numeric=(1, 2, 3, 4)), el("p", note, class_="note"))


def tasks(summary: Summary, split: str) -> Markup | None:
    """A row a task, a cell a visit: darker is more often resolved; a frame marks a group without a signal."""
    found = [t for t in summary.tasks[split] if t["cells"]][:MOST_TASKS]
    if not found:
        return None
    steps = sorted({cell[0] for task in found for cell in task["cells"]})
    place = {step: i for i, step in enumerate(steps)}
    rows = []
    for task in found:
        cells = []
        for step, _, graded, resolved, signal in task["cells"]:
            told = f"{task['id']}, step {step}: {resolved} of {graded} resolved" + ("" if signal or split == "val" else ", no signal")
            shade = f"{resolved / graded:.2f}" if graded else "0"
            flat = split == "train" and not signal
            cells.append(
                el(
                    "rect",
                    el("title", told),
                    x=place[step] * 11,
                    y=1,
                    width=10,
                    height=12,
                    fill_opacity=shade,
                    class_="cell" + " flat" * flat,
                )
            )
        strip = el("svg", cells, viewBox=f"0 0 {len(steps) * 11} 14", width=len(steps) * 11, height=14, role="img",
                   aria_label=f"{task['resolved']} of {task['graded']} resolved in {len(task['cells'])} visits")  # fmt: skip
        rows.append([task["id"], percent(task["rate"], 0), strip])
    more = len(summary.tasks[split]) - len(found)
    note = f"Steps {steps[0]} to {steps[-1]}." + (f" {more} more tasks are not shown." if more > 0 else "")
    if split == "train":
        note += " A dashed frame is a group without a signal."
    title = "Tasks in training" if split == "train" else "Tasks in validation"
    return folded(title, el("p", note, class_="note"), el("div", table(["task", "rate", "visits"], rows, numeric=(1,)), class_="dense"))


def alarms(summary: Summary) -> Markup | None:
    if not summary.alarms:
        return section("Alarms", el("p", "None.", class_="empty"))
    items = [
        el("li", el("b", alarm["title"]), el("span", _when(alarm)), el("p", alarm["evidence"]), class_=alarm["severity"])
        for alarm in summary.alarms
    ]
    return section("Alarms", el("ul", items, class_="alarms"))


def _when(alarm: Mapping[str, Any]) -> str:
    return f"step {alarm['step']}" if alarm["step"] is not None else day(alarm["time"]) if alarm["time"] else ""


def configuration(summary: Summary) -> Markup | None:
    changed = [entry for entry in summary.config if entry["differs"]]
    if not changed:
        return None
    rows = [[el("code", e["key"]), el("code", setting(e["value"])), el("code", setting(e["default"]))] for e in changed]
    return folded(f"Configuration: {len(changed)} keys differ from the default", table(["key", "value", "default"], rows))


def section(title: str, *children: Any) -> Markup:
    return el("section", el("h2", title), children)


def folded(title: str, *children: Any) -> Markup:
    return el("section", el("details", el("summary", el("h2", title)), children))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()) -> Markup:
    """Columns in ``numeric`` are set to the right."""
    right = set(numeric)
    cell = [{"class_": "n"} if i in right else {} for i in range(len(head))]
    return el(
        "div",
        el(
            "table",
            el("thead", el("tr", [el("th", name, scope="col", **cell[i]) for i, name in enumerate(head)])),
            el("tbody", [el("tr", [el("td", value, **cell[i]) for i, value in enumerate(row)]) for row in rows]),
        ),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="table",
    )
