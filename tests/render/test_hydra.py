"""Values survive Hydra's override grammar. The parser is Hydra's own, so these run where verl is installed."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.render.hydra import argument, literal

pytestmark = pytest.mark.train


def parsed(text: str):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([text])
    return override


_text = st.text(string.printable.replace("\n", "").replace("\r", "").replace("\x0b", "").replace("\x0c", ""), max_size=20)
_scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | _text
_names = st.text(string.ascii_letters + "_", min_size=1, max_size=8).filter(
    lambda n: n.lower() not in {"true", "false", "null", "nan", "inf"}
)
_values = st.recursive(_scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(_names, v, max_size=3), max_leaves=6)


def same(left, right) -> bool:
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@given(_values)
def test_values_survive(value):
    assert same(parsed(argument("a.b", value)).value(), value), literal(value)


@pytest.mark.parametrize(
    "text",
    ["", "1", "true", "null", "nan", "a b", "it's", "\\", "\\'", "a\\", "127.0.0.1", "a=b", "{x}", "[x]", "é", "1e5", "/a-b/c.d", "x,y"],
)
def test_awkward_text_survives(text):
    assert parsed(argument("a.b", text)).value() == text


@pytest.mark.parametrize(("name", "add", "force"), [("a.b", False, False), ("+a.b", True, False), ("++a.b", False, True)])
def test_prefixes_keep_their_meaning(name, add, force):
    override = parsed(argument(name, 1))
    assert override.key_or_group == "a.b" and override.is_add() is add and override.is_force_add() is force


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"true": 1}, {"a b": 1}, {"1": 1}, [{"": 1}]])
def test_values_without_a_place_are_refused(value):
    with pytest.raises(ValueError):
        literal(value)
