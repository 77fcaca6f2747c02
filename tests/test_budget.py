# SPDX-License-Identifier: Apache-2.0
"""Exact integers from a keep ratio, and settings from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.config import RunConfig
from vidcomp.core.budget import allocate, even_split, guarded_ceil, guarded_floor, token_budget
from vidcomp.core.specs import parse_spec
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


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), min_size=1, max_size=12), st.floats(0, 1))
def test_allocated_numbers_sum_exactly_and_respect_the_limits(groups, level):
    shares, most = [share for share, _ in groups], [limit for _, limit in groups]
    total = round(level * sum(most))
    counts = allocate(shares, total, most)
    assert counts.sum() == total and (counts >= 0).all() and (counts <= most).all()


def test_allocation_by_hand():
    assert allocate([1, 1, 1], 10, [9, 9, 9]).tolist() == [4, 3, 3]  # equal remainders: the lower index
    assert allocate([5, 3, 2], 11, [9, 9, 9]).tolist() == [6, 3, 2]  # 5.5, 3.3, 2.2
    assert allocate([8, 1, 1], 12, [4, 9, 9]).tolist() == [4, 4, 4]  # 9.6 does not fit; 8 left for 1 : 1
    assert allocate([1, 0, 0], 7, [3, 5, 5]).tolist() == [3, 2, 2]
    assert allocate([0, 0], 3, [5, 5], least=1).tolist() == [2, 1]
    with pytest.raises(ValueError, match="cannot give 4"):
        allocate([1, 1], 4, [1, 2])
    with pytest.raises(ValueError, match="finite"):
        allocate([1, float("nan")], 2, [3, 3])


@given(st.integers(0, 500), st.integers(1, 40))
def test_an_even_split_is_even(total, parts):
    counts = even_split(total, parts)
    assert counts.sum() == total and counts.max() - counts.min() <= 1


def test_the_guard_works_downwards_too():
    assert 100 * 0.29 < 29 and guarded_floor(100 * 0.29) == 29
    assert guarded_floor(2.999) == 2
