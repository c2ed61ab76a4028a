"""What leaves this machine holds no secret of a common kind, in none of the forms that files write it in, and taking it out takes linear
time. All keys here are made up."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.record.redact import HIDDEN, known_secrets, redact, redacted
from swerl.record.rundir import RunDir
from swerl.record.secret_forms import FORMS
from tests.record.secretkit import AROUND, CASES, HEX, PEM, V

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", CASES)
def test_a_secret_is_taken_out_in_every_form_that_files_have(name: str):
    secret, text = CASES[name]
    for form, written in {
        "alone": text,
        "in a line": f"2026-01-01 INFO told {text} and went on",
        "in lines": f"before\n{text}\nafter",
        "coloured": f"\x1b[31m{text}\x1b[0m",
        "JSON": json.dumps({"message": f"before\n{text}\nafter"}),
        "JSON twice": json.dumps({"message": json.dumps({"text": f"say\n{text}\n"})}),
        "YAML": yaml.safe_dump({"text": f"before\n{text}"}, width=10_000),
        "Python": repr([f"before\n{text}\n"]),
    }.items():
        shown = redact(written, [])
        assert secret not in shown, form
        assert HIDDEN in shown, form


@pytest.mark.parametrize(
    "write", [str, json.dumps, lambda text: json.dumps(json.dumps(text)), repr, lambda text: yaml.safe_dump([text], width=1_000_000)]
)
def test_secrets_beside_each_other_are_all_taken_out(write):
    texts = [text for _, text in CASES.values()]
    for between in ("\n", "\t", " ", ", ", " | "):
        shown = redact(write(between.join(texts)), [])
        assert not [kind for kind, (secret, _) in CASES.items() if secret in shown], between


def test_no_line_of_a_key_stays():
    whole = AROUND["private key"]
    lines = PEM.split("\n")
    for text in (whole, json.dumps(whole), whole[: whole.index(lines[3])], whole[whole.index(lines[1]) :], lines[2]):
        assert not any(line in redact(text, []) for line in lines), text
    assert redact(f"a\n{whole}\nb", []) == f"a\n{HIDDEN}\nb"


def test_a_program_can_still_read_what_was_json():
    rows = [{"message": f"say\n{text}\n", "n": 1} for _, text in CASES.values()]
    found = json.loads(redact(json.dumps(rows), []))
    assert [row["n"] for row in found] == [1] * len(rows)


@pytest.mark.parametrize(
    "text",
    [
        "response_tokens: 123456789",
        "eos_token: <|endoftext|>  pad_token: [PAD]",
        "eos_token = tokenizer.eos_token",
        '"FAIL_TO_PASS": ["tests/test_a.py::test_b"]',
        "sorted(rows, key=lambda row: row.step)",
        "primary_key: 12345678",
        "the secret of success, the key to it, a token of thanks, Basic authentication",
        "git clone ssh://git@example.org/x.git",
        "https://example.org/docs?page=2&sort=step",
        "step:8 - actor/lr:0.0002 - val-core/demo/reward/mean@4:0.551",
        "risk-assessment-of-all-things task-abcdefghijklmnopqrstuvwxyz",
        "sha256 " + HEX,
        HEX,
        "/usr/lib/python3.12/site-packages/harbor/agents/installed/base",
        "/data/t/a_directory_of_a_model/policy",
        '"credentials.wandb_api_key": "config.yaml:105:3"',
    ],
)
def test_ordinary_text_stays_as_it_is(text: str):
    assert redact(text, []) == text


def test_text_of_this_project_stays_readable():
    """Hidden in its pages and sources is at most one line of 500: examples of keys."""
    lines = hidden = 0
    for path in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("swerl/**/*.py")]:
        text = path.read_text()
        lines += text.count("\n")
        hidden += redact(text, []).count(HIDDEN) - text.count(HIDDEN)
    assert hidden <= lines / 500, (hidden, lines)


# Pieces that patterns begin with and then give up on, repeated: what an agent would print to keep a reader busy.
HOSTILE = (
    *(
        "x",
        " ",
        "\n",
        "-",
        "\\",
        "M",
        "1234567890:",
        "_KEY=",
        "_KEY=\"'",
        "key\\\\\\\\",
        "token ",
        "https://a:",
        "://a/b/c/d/",
        "://hooks.",
    ),
    *(
        "Ab1+",
        "-----BEGIN PRIVATE KEY-----!",
        "a-----END PRIVATE KEY-----",
        "eyJabcdefgh",
        "eyJabcdefgh.",
        "&a",
        "--a ",
        "machine a login ",
    ),
    *("api_key", "sk-a-", "authorization:basic ", "sharedaccess_", " -u a", "secret_", "password: '", "basic ", "[31m", "\\n", "/t/", "@"),
)


def _cpu_s(text: str) -> float:
    began = time.process_time()
    redact(text, [])
    return time.process_time() - began


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_the_text(piece: str):
    """Eight times the text takes about eight times as long; quadratic work would take 64 times."""
    short, long = (piece * (size // len(piece)) for size in (20_000, 160_000))
    assert min(_cpu_s(long) for _ in range(2)) < 24 * max(min(_cpu_s(short) for _ in range(3)), 0.002)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*HOSTILE, "=", ":", '"', "'", "/", ".", "<", V]), min_size=1, max_size=4))
def test_no_mixture_of_hostile_pieces_takes_long(pieces: list[str]):
    unit = "".join(pieces)
    assert _cpu_s(unit * (50_000 // len(unit) + 1)) < 3.0


def test_every_form_is_needed():
    """A form that no case here needs is one that no test holds."""
    import swerl.record.redact as module

    needed = []
    for form in FORMS:
        rest = tuple(other for other in FORMS if other is not form)
        try:
            module.FORMS = rest
            missed = [name for name, (secret, text) in {**CASES, "line": (PEM, PEM)}.items() if secret in redact(text, [])]
        finally:
            module.FORMS = FORMS
        needed += [form.name] if missed else []
    assert needed == [form.name for form in FORMS]


def test_what_the_environment_calls_a_secret_is_one(tmp_path: Path):
    env = {"MY_DB_PASSWORD": "plain words", "SOME_TOKEN": "short12", "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json", "LANG": "C.UTF-8-x"}
    assert known_secrets(RunDir.at(tmp_path), env) == ["plain words"]


def test_a_known_secret_is_found_as_json_and_addresses_write_it():
    secret = 'a"b/c\\d e'
    for text in (secret, json.dumps(secret), "https://example.org/?q=a%22b%2Fc%5Cd%20e"):
        assert HIDDEN in redact(text, [secret])


def test_data_is_redacted_by_its_names_too():
    assert redacted({"api_key": V, "steps": [f"--token {V}"], "n": 3}, []) == {"api_key": HIDDEN, "steps": [f"--token {HIDDEN}"], "n": 3}
    assert redacted({"key": "demo-0012-of-a-task", "password": "hunter"}, []) == {"key": "demo-0012-of-a-task", "password": HIDDEN}
