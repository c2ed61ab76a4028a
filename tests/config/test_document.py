"""YAML in: values by YAML 1.2's rules, and where everything stands."""

from __future__ import annotations

import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from swerl.config.document import parse, read
from swerl.errors import SwerlError


def ids(error: pytest.ExceptionInfo[SwerlError]) -> list[str]:
    return [p.id for p in error.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("2.0e-4", 2e-4),
        (".5", 0.5),
        ("-1", -1),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ('"null"', "null"),
        ("|\n    5\n", "5\n"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    assert parse(f"a: {text}", "f").values == {"a": value}


def test_every_key_has_its_line_and_column():
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    assert {path: (p.line, p.column) for path, p in document.places.items()} == {
        ("a",): (1, 1),
        ("a", "b"): (2, 3),
        ("a", "c"): (3, 3),
        ("a", "c", 0): (4, 7),
        ("a", "c", 1): (5, 7),
    }


def test_syntax_error_names_the_place():
    with pytest.raises(SwerlError) as error:
        parse("a: 1\nb: [1,\nc: 2\n", "f.yaml")
    assert ids(error) == ["SWERL-C002"]
    assert error.value.problems[0].where.startswith("f.yaml:")


def test_a_repeated_key_is_refused_at_both_places():
    with pytest.raises(SwerlError) as error:
        parse("a:\n  b: 1\n  b: 2\n", "f.yaml")
    (problem,) = error.value.problems
    assert (problem.id, problem.where) == ("SWERL-C003", "f.yaml:3:3")
    assert "f.yaml:2:3" in problem.remedy


def test_a_missing_file_is_a_problem_not_a_traceback(tmp_path):
    with pytest.raises(SwerlError) as error:
        read(tmp_path / "none.yaml")
    assert ids(error) == ["SWERL-C001"]


def test_a_list_at_the_top_is_refused():
    with pytest.raises(SwerlError) as error:
        parse("- a\n", "f.yaml")
    assert ids(error) == ["SWERL-C002"]


_text = st.text(string.ascii_letters + string.digits + " :#'\"{}[]&*!|>%@`-?,.é", max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("text", ["08", "010", "-08", "00", "09.5", "+07e2"])
def test_a_number_with_a_leading_zero_is_text(text):
    """Readers of YAML do not agree what it is; PyYAML writes the word "08" without quotes."""
    assert parse(f"a: {text}", "f").values == {"a": text}


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-0", 0), ("10", 10), ("0.5", 0.5), (".5", 0.5), ("1e-6", 1e-6), ("0e0", 0.0)])
def test_other_numbers_are_numbers(text, value):
    assert parse(f"a: {text}", "f").values == {"a": value}


@given(st.dictionaries(_text, _values, max_size=4))
def test_what_pyyaml_writes_is_read_back(values):
    """PyYAML quotes by YAML 1.1's rules, which quote at least what 1.2 must have quoted."""
    assert parse(yaml.safe_dump(values), "f").values == values
