# SPDX-License-Identifier: Apache-2.0
"""A token that feeds several survivors: merging, order and copies of frames, against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from vidcomp.core.tokens import Links, Reduction, TokenView, apply_reduction, compose


def make() -> tuple[TokenView, Reduction]:
    """Two frames of three tokens; survivors 1 and 3, and token 4 feeds both."""
    view = TokenView(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), (1, 3), torch.arange(2))
    more = Links(torch.tensor([4, 0]), torch.tensor([0, 1]), torch.tensor([0.25, 0.5]))
    assign, weights = torch.tensor([0, 0, -1, 1, 1, -1]), torch.tensor([0.5, 0.25, 0.0, 0.25, 0.25, 0.0])
    return view, Reduction(torch.tensor([1, 3]), assign, weights, more=more)


def test_links_are_added_up():
    view, reduction = make()
    x = view.features.reshape(6, 4)
    expected = torch.stack([0.5 * x[0] + 0.25 * x[1] + 0.25 * x[4], 0.25 * x[3] + 0.25 * x[4] + 0.5 * x[0]])
    merged = apply_reduction(view, reduction)
    torch.testing.assert_close(merged.features, expected)
    assert merged.members.tolist() == [2, 2]


def test_links_follow_a_new_order():
    view, reduction = make()
    assign = torch.tensor([1, 1, -1, 0, 0, -1])
    more = Links(reduction.more.token, 1 - reduction.more.survivor, reduction.more.weight)
    other = Reduction(torch.tensor([3, 1]), assign, reduction.weights, raster=False, more=more)
    one, two = (apply_reduction(view, r).features for r in (reduction, other.in_raster_order()))
    torch.testing.assert_close(one, two)


def test_copies_of_a_frame_share_its_links():
    view, reduction = make()
    kept, source = torch.tensor([0, 3]), torch.tensor([0, 0, 0, 1, 1])
    whole = TokenView(view.features[source], (1, 3), torch.arange(5))
    copied = compose(kept, source, reduction, tokens=3)
    torch.testing.assert_close(apply_reduction(whole, copied).features, apply_reduction(view, reduction).features)


@pytest.mark.parametrize("wrong", [(6, 0, 1.0), (0, 2, 1.0), (-1, 0, 1.0), (0, 0, float("nan"))])
def test_links_that_lead_nowhere(wrong):
    _, reduction = make()
    token, survivor, weight = (torch.tensor([value]) for value in wrong)
    with pytest.raises(ValueError, match="links"):
        Reduction(reduction.anchors, reduction.assign, reduction.weights, more=Links(token, survivor, weight))
