"""Exact integers from a keep ratio, and settings from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.budget import guarded_ceil, token_budget
from vidcomp.config import RunConfig, parse_spec
from vidcomp.errors import UsageError


def test_the_guard_forgives_the_last_bits():
    assert 20 * 0.15000000000000002 > 3
    assert guarded_ceil(20 * 0.15000000000000002) == 3
    assert guarded_ceil(3.001) == 4


@given(st.integers(1, 100_000), st.floats(1e-6, 1))
def test_a_budget_is_near_its_share_and_never_empty(total, keep):
    budget = token_budget(total, keep)
    assert 1 <= budget <= total
    assert total * keep - 1e-6 <= budget < total * keep + 1 + 1e-6 or budget == 1


@pytest.mark.parametrize("keep", [0, -0.1, 1.1, float("nan")])
def test_a_keep_outside_its_range_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be in"):
        token_budget(10, keep)


def test_parameters_in_a_name():
    assert parse_spec("holitom") == ("holitom", {})
    assert parse_spec("holitom:tau=0.8,k=7,beta=none") == ("holitom", {"tau": 0.8, "k": 7, "beta": None})
    assert parse_spec("x:flag=true,word=abc") == ("x", {"flag": True, "word": "abc"})
    with pytest.raises(UsageError):
        parse_spec("holitom:tau")


def test_every_setting_has_one_name():
    flat = RunConfig().flat()
    assert len(flat) == sum(len(part.__dict__) for part in RunConfig().parts())
    assert RunConfig.from_flat(**flat) == RunConfig()
    with pytest.raises(UsageError, match="unknown setting 'keeep'"):
        RunConfig.from_flat(keeep=1)
