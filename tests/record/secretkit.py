"""Made-up secrets of the common kinds, each where files have it: what must be gone, and the text it stands in."""

import json
import random
import string

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
