"""Signed statements: a DSSE envelope with Ed25519, and a key pair in PEM that lives on this machine.

DSSE (github.com/secure-systems-lab/dsse, protocol v1) signs type and body together: ``DSSEv1 <len> <type> <len> <body>``. The key's id is
the sha256 of its public half in DER. Keys made by ``openssl genpkey -algorithm ed25519`` serve as well.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson

from swerl.errors import fail
from swerl.record.rundir import write_atomic

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def make_key(path: Path) -> Path:
    """Write a private key (0600) to ``path`` and its public half beside it; returns the latter. An existing key is never replaced."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        if file.exists():
            raise fail("SWERL-A011", f"{file} exists", "name another file; a key is not replaced", str(file))
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()), 0o600)
    write_atomic(public, key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    return public


def sign(statement: dict[str, Any], key: Path) -> dict[str, Any]:
    """The envelope of ``statement``. SWERL-A011 where ``key`` is no Ed25519 private key in PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = _load(key, lambda data: load_pem_private_key(data, None), Ed25519PrivateKey, "private")
    body = orjson.dumps(statement, option=orjson.OPT_SORT_KEYS)
    signature = {"keyid": key_id(private.public_key()), "sig": base64.b64encode(private.sign(_encoded(body))).decode()}
    return {"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(body).decode(), "signatures": [signature]}


def opened(envelope: dict[str, Any], public_key: Path) -> dict[str, Any]:
    """The statement of an envelope that this key has signed. SWERL-A012 otherwise."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public = _load(public_key, load_pem_public_key, Ed25519PublicKey, "public")
    body = base64.b64decode(envelope["payload"])
    mine = [s for s in envelope["signatures"] if s["keyid"] == key_id(public)]
    try:
        if envelope["payloadType"] != PAYLOAD_TYPE or not mine:
            raise InvalidSignature
        for signature in mine:
            public.verify(base64.b64decode(signature["sig"]), _encoded(body))
    except (InvalidSignature, ValueError) as error:
        signers = ", ".join(s["keyid"][:12] for s in envelope["signatures"]) or "nobody"
        remedy = "ask who made the archive for the public key, or take the archive for changed"
        raise fail("SWERL-A012", f"{public_key} has not signed this statement; signed by {signers}", remedy, str(public_key)) from error
    return orjson.loads(body)


def payload(envelope: dict[str, Any]) -> dict[str, Any]:
    """The statement, signature unchecked."""
    return orjson.loads(base64.b64decode(envelope["payload"]))


def key_id(public: Any) -> str:
    from cryptography.hazmat.primitives import serialization as s

    return hashlib.sha256(public.public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _encoded(body: bytes) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(body), body)


def _load(path: Path, load: Any, kind: type, which: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = load(path.read_bytes())
        if not isinstance(key, kind):
            raise ValueError("another kind of key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise fail("SWERL-A011", f"{path} is no Ed25519 {which} key: {error}", "make one: swerl artifacts key FILE", str(path)) from error
    return key
