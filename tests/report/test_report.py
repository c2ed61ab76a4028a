"""The page a reader gets: right numbers, self-contained, text as text, from a run and from an archive alone, one run and several."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from swerl.cli import run as swerl_run
from swerl.errors import SwerlError
from swerl.record.rundir import RunDir
from swerl.report import summary_of, write_report
from swerl.report.comparison import newcombe
from swerl.report.markup import Markup, el
from swerl.report.page import page
from swerl.report.summary import NAME, Summary

from .conftest import HOSTILE

ALLOWED = frozenset(re.findall(r"\w+", """
    html head meta title style body main header section h1 h2 h4 p dl div dt dd small table thead tbody tr th td code ul ol li b i span
    figure figcaption svg line path circle rect text details summary pre"""))  # fmt: skip


class Reader(HTMLParser):
    """Elements, attributes and text, as a browser would find them."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="session")
def summary(made: Path) -> Summary:
    return summary_of(RunDir.at(made))


def test_numbers_are_those_of_the_files(made: Path, summary: Summary):
    settled = [json.loads(line)["result"] for line in (made / "trials" / "journal.jsonl").read_text().splitlines() if '"settled"' in line]
    val = [r for r in settled if r["identity"]["split"] == "val" and r["identity"]["version"] == "L1:8" and r["graded"]]
    resolved = sum(r["reward"] == 1.0 for r in val)
    [last] = [v for v in summary.validations if v["step"] == 8]
    assert (last["resolved"], last["graded"]) == (resolved, len(val))
    text = Reader(page({"first": summary})).text
    assert f"{100 * resolved / len(val):.1f} %" in text
    assert sum(s["trials"] for split in summary.steps.values() for s in split) == len(settled)
    spent = summary.cost
    assert spent["device_s"] == pytest.approx(sum(fate.get("device_s", 0) for fate in spent["fates"].values()))


def assert_self_contained(html: str) -> Reader:
    read = Reader(html)
    assert {tag for tag, _ in read.tags} <= ALLOWED
    for tag, attributes in read.tags:
        assert not any(name.startswith("on") or name in ("src", "href", "xlink:href", "srcset", "action", "data") for name in attributes), (
            tag
        )
        assert tag != "style" or attributes == {}
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "script-src" not in policy
    return read


def test_one_run_is_self_contained(summary: Summary):
    read = assert_self_contained(page({"first": summary}))
    for title in ("Curves", "Validations", "How trials ended", "What it cost", "Trials to read", "Origin", "Alarms"):
        assert title in read.text
    assert sum(tag == "svg" for tag, _ in read.tags) > 10


def test_hostile_transcripts_are_text(hostile: Path, tmp_path: Path):
    summary = summary_of(RunDir.at(hostile))
    assert summary.samples and any(HOSTILE[:40] in json.dumps(s) for s in summary.samples)
    written = write_report(tmp_path, {"hostile": summary})
    html = written.page.read_text()
    read = assert_self_contained(html)
    assert "<script>alert(1)</script>" in read.text, "it is shown, not run"
    assert "\x1b" not in html and "\x00" not in html


def test_the_same_files_give_the_same_bytes(made: Path, summary: Summary, tmp_path: Path):
    assert summary_of(RunDir.at(made)).to_json() == summary.to_json()
    one, two = write_report(tmp_path / "a", {"first": summary}), write_report(tmp_path / "b", {"first": summary})
    files = [sorted(p.relative_to(w.page.parent) for w in [w] for p in w.page.parent.rglob("*") if p.is_file()) for w in (one, two)]
    assert files[0] == files[1] and len(files[0]) == 1 + one.curves + one.pictures
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files[0])


def test_a_run_is_only_read(made: Path):
    before = sorted(p.name for p in made.iterdir())
    summary_of(RunDir.at(made), 0)
    assert sorted(p.name for p in made.iterdir()) == before


def test_several_runs_are_compared(summary: Summary, other: Path):
    second = summary_of(RunDir.at(other))
    html = page({"first": summary, "second": second})
    read = assert_self_contained(html)
    assert "first against second" in read.text and "second less first" in read.text
    assert "experiment.exp_name" in read.text, "the configurations' difference"
    assert 'class="t-teal"' in html and 'class="t-amber"' in html


def test_difference_has_the_published_interval():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 gives 0.0524 to 0.3339."""
    from swerl.record.results import wilson

    def entry(r: int, n: int) -> dict[str, float]:
        low, high = wilson(r, n)
        return {"value": r / n, "low": low, "high": high}

    low, high = newcombe(entry(56, 70), entry(48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_an_archive_alone_is_enough(made: Path, summary: Summary, tmp_path: Path):
    alone = tmp_path / "run_007"
    alone.mkdir()
    for name in ("manifest.json", "resolved.json", "metrics.jsonl"):
        shutil.copy(made / name, alone / name)
    (alone / NAME).write_bytes(summary.to_json())
    again = summary_of(RunDir.at(alone))
    assert again.to_json() == summary.to_json()
    assert page({"first": again}) == page({"first": summary})


def test_an_archive_without_a_summary_is_read_as_far_as_it_goes(made: Path, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("manifest.json", "resolved.json", "metrics.jsonl"):
        shutil.copy(made / name, bare / name)
    found = summary_of(RunDir.at(bare))
    assert found.step == 8 and found.series["actor/entropy"] and not found.samples
    text = assert_self_contained(page({"bare": found})).text
    assert "no journal at hand" in text and "actor/entropy" in text


def test_a_summary_of_another_format_is_refused(made: Path, tmp_path: Path):
    for content in ("{}", '{"format": 99}', "no json"):
        (tmp_path / NAME).write_text(content)
        with pytest.raises(SwerlError, match="SWERL-A024"):
            summary_of(RunDir.at(tmp_path))


def test_secrets_are_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from .conftest import make

    key = "fedcba98765432100f1e2d3c4b5a69788796a5b4"
    monkeypatch.setenv("WANDB_API_KEY", key)
    root = make(tmp_path, "leaky", words=f'export WANDB_API_KEY={key}\napi_key="{key[::-1]}"')
    written = write_report(tmp_path / "out", {"leaky": (found := summary_of(RunDir.at(root)))})
    assert found.samples
    for text in (written.page.read_text(), found.to_json().decode()):
        assert key not in text and key[::-1] not in text and "secret" in text


def test_verb_takes_names_directories_and_several(made: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert swerl_run(["report", "first", "--runs-dir", str(made.parent), "--out", str(tmp_path / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["first"]
    assert swerl_run(["report", str(made), str(other), "--out", str(tmp_path / "two")]) == 0
    assert "report " in capsys.readouterr().out and (tmp_path / "two" / "report.html").is_file()
    assert swerl_run(["report", "nothing", "--runs-dir", str(made.parent), "--out", str(tmp_path / "no")]) == 1
    assert "SWERL-R016" in "".join(capsys.readouterr()) and not (tmp_path / "no").exists()


def test_elements_escape_whatever_is_not_theirs():
    assert el("p", "<b>", el("b", "&"), None, ["x", 1], class_='"') == '<p class="&quot;">&lt;b&gt;<b>&amp;</b>x1</p>'
    assert el("meta", name="a", hidden=False) == '<meta name="a">'
    assert isinstance(el("p"), Markup) and not re.search("[\x00-\x08]", el("p", "\x00\x07"))
