"""What leaves this machine holds no secret of a common kind, in none of the forms that files write it in, and taking it out takes linear
time. All keys here are made up."""

import json
import random
import string
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.record.redact import HIDDEN, known_secrets, redact, redacted
from swerl.record.rundir import RunDir
from swerl.record.secret_forms import FORMS

ROOT = Path(__file__).resolve().parents[2]
LETTERS = string.ascii_letters + string.digits


def made_up(count: int = 36, letters: str = LETTERS) -> str:
    """Always the same for one count, with a digit and both cases where the letters have them."""
    drawn = random.Random(count)
    return "".join(drawn.choice(letters) for _ in range(count - 3)) + "".join(letters[at] for at in (-1, 0, len(letters) // 2))


V = made_up()
HEX = made_up(64, "0123456789abcdef")
CAPITALS = made_up(16, string.ascii_uppercase + string.digits)
PEM = "\n".join(made_up(64) for _ in range(4))

# What must be gone -> where it stands. Bare keys are known by their maker's prefix, others by what stands around them.
BARE = {
    "AWS": f"AKIA{CAPITALS}",
    "AWS, for a time": f"ASIA{CAPITALS}",
    "Google": f"AIza{V[:35]}",
    "Google OAuth": f"ya29.{V}",
    "DigitalOcean": f"dop_v1_{HEX}",
    "Vault": f"hvs.{V}",
    "GitHub": f"ghp_{V}",
    "GitHub app": f"ghs_{V}",
    "GitHub, fine": f"github_pat_{V[:22]}_{V}",
    "GitLab": f"glpat-{V[:20]}",
    "Bitbucket": f"ATBB{V}",
    "Hugging Face": f"hf_{V[:34]}",
    "OpenAI": f"sk-{V}",
    "OpenAI project": f"sk-proj-{V}-{V}_{V}",
    "Anthropic": f"sk-ant-api03-{V}-{V}AA",
    "OpenRouter": f"sk-or-v1-{HEX}",
    "Groq": f"gsk_{V}",
    "xAI": f"xai-{V}",
    "NVIDIA": f"nvapi-{V}",
    "Replicate": f"r8_{V}",
    "W&B": f"wandb_v1_{V}",
    "Stripe": f"sk_live_{V[:24]}",
    "SendGrid": f"SG.{V[:22]}.{V}{V[:7]}",
    "npm": f"npm_{V}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{V}",
    "Docker": f"dckr_pat_{V}",
    "Slack": f"xoxb-{HEX[:10]}-{V}",
    "Telegram": f"123456789:{V[:35]}",
    "JWT": f"eyJhbGciOi{V}.eyJzdWIi{V}.{V}",
}
AROUND = {
    "cloud key": f"AWS_SECRET_ACCESS_KEY={V}",
    "cloud session": f"AWS_SESSION_TOKEN={V}",
    "cloud file": f"aws_secret_access_key = {V}",
    "cloud storage": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={V}==;EndpointSuffix=core",
    "shared access": f"https://a.blob.core.example.org/c?sv=2024&sig={V}%3D",
    "signed address": f"https://s3.example.org/o?X-Amz-Credential=A&X-Amz-Signature={V}",
    "hub": f"HF_TOKEN={V}",
    "hub, older": f"HUGGING_FACE_HUB_TOKEN: {V}",
    "key of ours": f"NIGHTLY_KEY={V}",
    "database": f"MYSQL_PWD={V}",
    "session key": f"SWERL_SESSION_KEY={V}",
    "basic": f"Authorization: Basic {V}=",
    "basic alone": f"Basic {V}",
    "bearer": f"Authorization: Bearer {V}",
    "bearer alone": f"bearer {V}",
    "scheme of a forge": f"authorization: token {V}",
    "no scheme": f"Authorization: {V}",
    "header of a model API": f"x-api-key: {V}",
    "header of a forge": f"PRIVATE-TOKEN: {V}",
    "user of an address": f"https://{V}@example.org/x.git",
    "password of an address": f"postgres://swerl:{V}@db.example.org/runs",
    "password with an at": f"https://me:p@{V}@example.org/",
    "query": f"https://example.org/x?a=b&token={V}&c=d",
    "query of a key": f"https://example.org/x?key={V}",
    "gateway": f"http://127.0.0.1:8002/t/{V}/v1",
    "gateway's log": f"POST /t/{V}/v1/messages",
    "chat": f"https://hooks.slack.example/services/T0/B0/{V}",
    "chat 2": f"https://discord.com/api/webhooks/1234567/{V}",
    "chat 3": f"https://team.webhook.office.example/webhookb2/{V}",
    "chat 4": f"https://chat.example.org/hooks/{V}",
    "chat 5": f"https://api.telegram.org/bot123456:{V}/sendMessage",
    "JSON": f'{{"token": "{V}", "n": 1}}',
    "JSON in JSON": json.dumps(json.dumps({"client_secret": V})),
    "camel case": f'{{"secretAccessKey":"{V}"}}',
    "Python": f"os.environ['DB_PASSWORD'] = '{V}'",
    "words in quotes": f'password: "correct {V} staple"',
    "netrc": f"machine api.example.org login user password {V}",
    "option": f"tool --api-key {V} --verbose",
    "option of curl": f"curl -u user:{V} https://example.org",
    "registry": f"//registry.example.org/:_authToken={V}",
    "registry file": f'{{"auths": {{"example.org": {{"auth": "{V}="}}}}}}',
    "cookie": f"Set-Cookie: {V}; Path=/",
    "private key": f"-----BEGIN PRIVATE KEY-----\n{PEM}\n{V}\n-----END PRIVATE KEY-----",
    "private key of a shell": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PEM}\n{V}\n-----END OPENSSH PRIVATE KEY-----",
    "private key of a mail": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n{PEM}\n{V}\n-----END PGP PRIVATE KEY BLOCK-----",
    "private key, its end cut": f"-----BEGIN RSA PRIVATE KEY-----\n{PEM}\n{V}",
    "private key, its begin cut": f"{PEM}\n{V}\n-----END RSA PRIVATE KEY-----",
}
CASES = {**{name: (text, text) for name, text in BARE.items()}, **{name: (V, text) for name, text in AROUND.items()}}


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
