"""The forms in which secrets stand in text, as data: what comes before a value, the value, and what decides in doubt.

Every pattern takes time linear in its text: it begins with words of its own or where a run of letters begins, and whatever it may read and
then give up is bounded. Text that an agent wrote goes through all of them.

A form hides the group ``value``, or ``word`` where it stands without quotes. ``sure`` looks at a value that may also be an ordinary word;
only what it says yes to is hidden.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass


def _mixed(value: str) -> bool:
    """Letters and digits, at least 16 of them: no word, no number."""
    return len(value) >= 16 and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _basic(value: str) -> bool:
    """Base64 of a user and a password, or what no word looks like."""
    try:
        decoded = b64decode(value + "=" * (-len(value) % 4))
    except NotBase64:
        decoded = b""
    return b":" in decoded or value.endswith("=") or _mixed(value)


def _body(value: str) -> bool:
    """A line of a key's text: unlike a digest it has both cases."""
    return any(c.islower() for c in value) and any(c.isupper() for c in value) and any(c.isdigit() for c in value)


def _user(value: str) -> bool:
    """The account that many hosts share is no secret."""
    return value not in ("git", "hg")


@dataclass(frozen=True, slots=True)
class Form:
    name: str
    pattern: re.Pattern[str]
    sure: Callable[[str], bool] | None = None


# What stands between a name and its value, in shells, YAML, JSON, JSON within JSON, Python and HTTP.
_IS = r"""\\{0,8}["']{0,2}\]?[ \t]{0,8}(?:=>|:=|[:=])[ \t]{0,8}(?:[bru]{1,2}(?=["']))?"""
# In quotes up to the same quote, else up to what ends a word; a backslash before a letter of an escape ends it too.
_VALUE = (
    r"""(?:(?P<quote>\\{0,8}(?:"|'{1,2}))(?P<value>(?:(?!(?P=quote))[^\n]){6,1024})(?P=quote)"""
    r"""|\\{0,8}["']{0,2}(?P<word>(?:\\(?![nrt"'\\])|[^\s"',;}\\&<>]){6,4096}))"""
)
_WORD = r"[\w.~+/=%-]"
# Where a word begins: not within one, but also behind an escape or a colour of a terminal.
_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=\[[0-9]m)|(?<=\[[0-9][0-9]m))"
_OWNER = (
    r"(?:api|app|application|access|account|admin|auth|authorization|bearer|bot|ci|client|consumer|deploy|deployment|encryption|git|github"
    r"|gitlab|hf|hub|huggingface|id|identity|jwt|master|oauth2?|openai|anthropic|personal|private|project|registry|refresh|sas|secret|security"
    r"|service|session|shared|shared[_-]?access|signing|slack|ssh|storage|subscription|wandb|webhook|write|read)"
)

# Prefixes that makers give to their keys so that they can be found, and the letters that follow.
_ISSUED = (
    r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA|AGPA|ANPA|LTAI|AKID)[A-Z0-9]{12,}",  # clouds: AWS, Alibaba, Tencent
    r"AIza[\w-]{30,}|ya29\.[\w.-]{16,}|GOCSPX-[\w-]{16,}|1//0[\w-]{20,}",  # Google
    r"do[opr]_v1_[a-f0-9]{16,}|dapi[a-f0-9]{32}|hv[sbr]\.[\w-]{16,}|tskey-[\w-]{16,}|pscale_(?:tkn|pw|oauth)_[\w.-]{16,}|sbp_[\w]{16,}",
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.\w{16,}|AGE-SECRET-KEY-1[A-Z0-9]{16,}|HRKU-[\w-]{16,}|fm[12][a-z]?_[\w+/=-]{16,}|fo1_[\w-]{16,}",
    r"gh[a-z]_[A-Za-z0-9_]{16,}|github_pat_\w{16,}|gl[a-z]{1,6}-[\w.-]{16,}|GR1348941[\w-]{16,}",  # forges
    r"ATBB\w{16,}|AT[AC]TT3[\w=-]{16,}",
    r"hf_[A-Za-z0-9]{16,}|hf_oauth_[\w.-]{16,}|api_org_[A-Za-z0-9]{16,}|KGAT_\w{16,}|wandb_v1_\w{16,}",  # hubs of models
    r"sk-[A-Za-z0-9]{16,}|sk_[A-Za-z0-9]{24,}|(?:gsk|pcsk|e2b|dtn|jina|tvly|fw|key_live)[_-][\w-]{20,}|r8_\w{16,}",  # APIs
    r"tgp_v1_[\w-]{16,}|xai-\w{16,}|pplx-\w{16,}|csk-\w{16,}|nvapi-[\w-]{16,}|lsv2_[a-z]{2}_\w{16,}|[sp]k-lf-[\w-]{16,}",
    r"(?:sk|rk|pk)_(?:live|test)_\w{10,}|whsec_[\w+/=]{16,}|SG\.[\w-]{12,}\.[\w-]{16,}|key-[0-9a-f]{32}|SK[0-9a-f]{32}",  # services
    r"shp[a-z]{2}_\w{16,}|sq0[a-z]{3}-[\w-]{16,}|lin_(?:api|oauth)_\w{16,}|ntn_\w{16,}|secret_[A-Za-z0-9]{32,}|NRAK-\w{16,}|PMAK-[\w-]{16,}",
    r"gl(?:sa|c)_[\w=+/]{16,}|sntry[su]_[\w=+/-]{16,}|figd_[\w-]{16,}",
    r"pypi-[\w-]{16,}|npm_\w{16,}|rubygems_\w{16,}|cio[A-Za-z0-9]{32}|dckr_[po]at_[\w-]{16,}|oy2[a-z0-9]{43}",  # registries
    r"xox[a-z](?:\.xox[a-z])?-[\w.-]{10,}|xapp-[\w-]{10,}|xwfp-[\w-]{10,}|[0-9]{8,10}:[\w-]{35,}",  # chats
    r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}",
)

FORMS: tuple[Form, ...] = (
    Form(
        "a name in capitals",
        re.compile(
            r"(?<=[A-Z0-9])(?:TOKEN|SECRET|PASSWORD|PASSWD|_(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?<!TO_)PASS|PWD|CREDENTIALS?|PAT|AUTH"
            r"|DSN|WEBHOOK(?:_UR[LI])?))(?:_(?:ID|B64|BASE64|\d))?" + _IS + _VALUE
        ),
    ),
    Form(
        "a name of a secret",
        re.compile(
            r"(?i)(?:"
            + _OWNER
            + r"[_.-]?(?:access[_.-]?)?(?:api[_.-]?)?(?:key|token)"
            + r"|secret|secret[_.-]?(?:access[_.-]?)?key|password|passwd|passphrase|passcode|credentials?|(?<![a-z])pwd"
            r"|connection[_.-]?string"
            + r"|shared[_.-]?access[_.-]?signature|(?<![a-z])(?:set-)?cookie)(?:[_.-]?(?:id|b64|base64|value|string|text|plain))?"
            + _IS
            + _VALUE
        ),
    ),
    Form("a token", re.compile(r"(?i)(?:token|(?<![a-z])auth|(?<![a-z_.-])pat)" + _IS + _VALUE), _mixed),
    Form(
        "an option of a command",
        re.compile(
            r"(?i)"
            + _BEGIN
            + r"(?:(?<!-)--?[\w-]{0,40}(?:token|key|secret|password|passwd|passphrase|credentials?)|machine\s\S{1,256}\s{1,8}login"
            r"\s{1,8}\S{1,256}\s{1,8}password)[\"']?,?[ \t]{1,8}[\"']?(?P<value>[^\s\"',;}\\-][^\s\"',;}\\]{5,4095})"
        ),
    ),
    Form(
        "an option of curl", re.compile(r"(?<=\s)(?:-u|--user|--proxy-user)[ \t=]{0,4}[\"']?(?P<value>[^\s:\"']{0,256}:[^\s\"']{3,1024})")
    ),
    Form(
        "an authorization",
        re.compile(
            r"(?i)(?:authorization|x-auth|x-registry-auth)" + _IS + r"\\{0,8}[\"']?"
            r"(?:(?:basic|bearer|token|digest|apikey|negotiate|bot|snowflake)\s{1,8})?(?P<value>[^\s\"',;}\\]{6,})"
        ),
    ),
    Form("a bearer", re.compile(r"(?i)" + _BEGIN + r"(?:bearer|bot)\s{1,8}(?P<value>" + _WORD + r"{8,})")),
    Form("a basic header", re.compile(r"(?i)" + _BEGIN + r"basic\s{1,8}(?P<value>[a-z0-9+/_-]{8,}={0,2})"), _basic),
    Form("an address with a user", re.compile(r"://(?P<value>[^\s/?#\"'<>\\]{1,1024})@(?=[\w\[{$])"), _user),
    Form(
        "a query",
        re.compile(
            r"(?i)[?&#;](?:[\w.-]{0,40}(?:token|key|secret|password|passwd|pwd|sig|signature|credential|auth|jwt)|sas|sv_sig|code)="
            r"(?P<value>[^\s&\"'<>\\]{6,})"
        ),
    ),
    # A session's key in a gateway address: behind a host, or where a path begins. A directory that is called "t" is not one.
    Form("a session", re.compile(r"""(?:://[^\s/"']{1,256}|(?<![\w./-]))/t/(?P<value>[\w-]{16,})""")),
    Form(
        "a webhook of a chat",
        re.compile(
            r"(?i)://(?:hooks\.[\w.-]{1,200}|[\w.-]{0,200}(?:webhook|discord(?:app)?\.com/api/webhooks|open-apis/bot)[\w.-]{0,64}"
            r"|[\w.:-]{1,200}(?:/[\w.-]{1,64}){0,4}/(?:web)?hooks?|chat\.googleapis\.com)/(?P<value>[^\s\"'<>\\]{6,})"
        ),
    ),
    Form("a bot's address", re.compile(r"://api\.telegram\.org/(?:file/)?bot(?P<value>[\w:-]{16,})")),
    Form("a key with its maker's prefix", re.compile(_BEGIN + r"(?P<value>" + "|".join(_ISSUED) + ")")),
    Form("a key with several prefixes", re.compile(_BEGIN + r"(?P<value>sk-[a-z0-9]{1,12}-[\w-]{16,})"), _mixed),
    Form(
        "a JSON web token",
        re.compile(_BEGIN.replace("[A-Za-z0-9]", r"[\w-]") + r"(?P<value>eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]{0,4096}){0,3})"),
    ),
    Form("a line of a key", re.compile(r"(?m)^[ \t]{0,64}(?P<value>[A-Za-z0-9+/]{60,76}={0,2})[ \t\r]{0,8}$"), _body),
)

KEY_BEGINS = re.compile(r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
KEY_ENDS = re.compile(r"-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
# What the text of a key is made of, with what a log or an escape puts between its lines: of one whose last line is not there.
KEY_TEXT = re.compile(r"(?:[A-Za-z0-9+/=:,.()|\[\] \t\r\n-]++|\\{1,8}[nrt])*+")
KEY_LINES = frozenset(" \tABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\\r\n")  # of one whose first line is not there

NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:\w{0,40}token|\w{0,40}key|\w{0,40}secret|\w{0,40}passw(?:or)?d|pass|passphrase|credentials?|pat|webhook\w{0,8})$"
)
