"""What counts as unfilled, and what merely looks odd."""

from __future__ import annotations

import pytest

from swerl.config.check import is_placeholder


@pytest.mark.parametrize(
    "value",
    [
        "human",
        "/path/to/model",
        "x/path/to/y",
        "<your model>",
        "tcp://<host>:2375",
        "REPLACE_ME",
        "YOUR_API_KEY",
        "changeme",
        "xxx",
        "XXXX",
    ],
)
def test_placeholders(value):
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value", ["", "humane", "/pathto/model", "a < b", "swe-lego-live-rl", "/opt/x", "/data/human/x", "changement", "xx", 3, None, True]
)
def test_not_placeholders(value):
    assert not is_placeholder(value)
