"""docs/config.md is what the schema says."""

from __future__ import annotations

import pytest

from swerl.config.docs import PAGE, explain, page
from swerl.config.schema import keys
from swerl.errors import SwerlError


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `swerl config docs`"


def test_the_page_names_every_key():
    text = page()
    assert [k.name for k in keys().values() if f"**{k.name}**" not in text and not k.read_only and k.name != "verl_overrides"] == []


def test_explain_one_key_a_section_and_a_mistake():
    assert "GEN_TP" in explain("vllm.gen_tp")
    assert explain("vllm").count("- **vllm.") == sum(name.startswith("vllm.") for name in keys())
    with pytest.raises(SwerlError) as error:
        explain("vllm.gentp")
    assert "vllm.gen_tp" in error.value.problems[0].message
