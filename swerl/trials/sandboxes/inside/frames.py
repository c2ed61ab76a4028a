"""What process 1 has to say: frames wait in `out` until the runner reads them. See `main` for their form."""

out = bytearray()
HIGH_WATER = 1 << 20
CHUNK = 1 << 16


def send(ident, kind, payload=b""):
    out.extend(len(payload).to_bytes(4, "little") + ident.to_bytes(4, "little") + kind + payload)


def fail(ident, error):
    send(ident, b"!", str(error).encode(errors="replace"))
