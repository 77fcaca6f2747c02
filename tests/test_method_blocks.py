# SPDX-License-Identifier: Apache-2.0
"""Blocks that several methods share, against loops written from their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidcomp.core.tokens import TokenView, apply_reduction
from vidcomp.methods import get_method
from vidcomp.methods.blocks.bipartite import pair_up
from vidcomp.methods.blocks.maxmin import farthest_first, spread_out
from vidcomp.methods.blocks.similarity import cosines, frame_cosine
from vidcomp.methods.longvu import LowResolution


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_farthest(rows: Tensor, count: int, first: int | None) -> list[int]:
    """The greedy rule with the whole table of distances, chosen points excluded."""
    unit = F.normalize(rows.double(), dim=1)
    distance = 1 - unit @ unit.T
    if first is None:
        first = int((distance + torch.eye(len(rows)) * 9).min(1).values.float().argmax())
    picks = [first]
    while len(picks) < count:
        nearest = distance[picks].min(0).values.float().clamp(min=0)
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return picks


@settings(max_examples=40)
@given(size=st.integers(2, 40), width=st.integers(2, 12), seed=st.integers(0, 99), first=st.sampled_from([None, 1]))
def test_farthest_first_is_the_plain_rule(size: int, width: int, seed: int, first: int | None) -> None:
    rows = noise(size, width, seed=seed)
    count = 1 + seed % size
    assert farthest_first(rows, count, first=first).tolist() == slow_farthest(rows, count, first)


def test_many_points_need_several_rounds() -> None:
    """Enough points that bounds go stale and blocks are split, with neighbours that look alike as in a video."""
    rows = (noise(30, 1, 16) + 0.3 * noise(30, 20, 16, seed=1)).reshape(-1, 16)
    assert farthest_first(rows, 120, shifts=(1, 20)).tolist() == slow_farthest(rows, 120, None)


@pytest.mark.parametrize("copies", [[0, 1, 2] * 5, [0, 0, 0, 1, 1, 2], [0] * 7])
def test_copies_come_last_and_once(copies: list[int]) -> None:
    rows = noise(3, 8)[copies]
    picks = farthest_first(rows, len(rows))
    kinds = len(set(copies))
    assert picks.unique().numel() == len(rows)
    assert len({copies[pick] for pick in picks[:kinds].tolist()}) == kinds
    assert picks[kinds:].tolist() == sorted(picks[kinds:].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_divprune_on_a_still_video(dtype: torch.dtype) -> None:
    """20 distinct vectors ten times over, and a budget of 60: the published code feeds 20 of them three times."""
    still = noise(20, 16).to(dtype).expand(10, 20, 16)
    reduction = get_method("divprune")(TokenView(still, (4, 5), torch.arange(10)), 0.3)
    assert reduction.kept == 60 and reduction.anchors.unique().numel() == 60
    assert set((reduction.anchors % 20).tolist()) == set(range(20))


@settings(max_examples=30)
@given(size=st.integers(1, 12), seed=st.integers(0, 99))
def test_spread_out_is_the_plain_rule(size: int, seed: int) -> None:
    distance = noise(2, size, size, seed=seed).abs()
    counts = [seed % (size + 1), size]
    chosen = spread_out(distance, torch.tensor(counts))
    for table, count, found in zip(distance, counts, chosen, strict=True):
        picks = [int(table.sort(0).values[min(1, size - 1)].argmax())]
        while len(picks) < count:
            nearest = table[picks].min(0).values
            nearest[picks] = -1
            picks.append(int(nearest.argmax()))
        assert found.nonzero()[:, 0].tolist() == sorted(picks[:count])


@settings(max_examples=40)
@given(size=st.integers(2, 15), seed=st.integers(0, 99), raster=st.booleans(), weighted=st.booleans())
def test_pairs_merge_as_in_the_paper(size: int, seed: int, raster: bool, weighted: bool) -> None:
    rows, merges = noise(1, size, 6, seed=seed), 1 + seed % (size // 2)
    sizes = torch.randint(1, 5, (1, size), generator=torch.Generator().manual_seed(seed)) if weighted else None
    step = pair_up(rows, merges, sizes=sizes, raster=raster)
    weight = [1.0] * size if sizes is None else sizes[0].tolist()
    likeness = F.normalize(rows[0, ::2], dim=1) @ F.normalize(rows[0, 1::2], dim=1).T
    best = sorted(range(len(likeness)), key=lambda even: -float(likeness[even].max()))
    groups = {odd: [odd] for odd in range(1, size, 2)}
    for even in best[:merges]:
        groups[2 * int(likeness[even].argmax()) + 1].append(2 * even)
    groups |= {2 * even: [2 * even] for even in best[merges:]}
    order = [2 * even for even in best[merges:]] + list(range(1, size, 2))
    order = sorted(order) if raster else order
    means = [sum(rows[0, i] * weight[i] for i in groups[a]) / sum(weight[i] for i in groups[a]) for a in order]
    assert step.anchor[0].tolist() == order
    torch.testing.assert_close(step.merged(rows)[0], torch.stack(means), rtol=1e-5, atol=1e-6)


def test_a_token_behind_an_infinite_penalty_stays() -> None:
    rows = noise(1, 8, 4)
    penalty = torch.tensor([[torch.inf, 0, 0, 0]])
    step = pair_up(rows, 3, penalty=penalty)
    assert 0 in step.anchor[0].tolist() and step.anchor.shape[1] == 5


def test_cosines_of_odd_rows() -> None:
    rows = noise(5, 7)
    rows[1], rows[3] = 0, rows[2]
    rows[4] = rows[2] * 1e-20
    table = cosines(rows, rows)
    assert bool((table[1] == 0).all()) and torch.equal(table[2], table[3])
    torch.testing.assert_close(table[2, [2, 3, 4]], torch.ones(3))
    features = rows.view(5, 1, 7)
    pairs = frame_cosine(features, torch.tensor([0, 2, 1]), torch.tensor([2, 3, 0]))
    torch.testing.assert_close(pairs[:, 0], torch.stack([table[0, 2], table[2, 3], table[1, 0]]))


@pytest.mark.parametrize("grid", [(6, 6), (12, 12), (5, 8), (1, 7), (2, 2), (1, 1)])
def test_low_resolution_is_the_library_s_resizing(grid: tuple[int, int]) -> None:
    """Frames that LongVU shrinks are what bilinear resizing gives, through weights and links alone."""
    features = noise(3, grid[0] * grid[1], 4)
    low = LowResolution.of(grid, features.device)
    everything = torch.ones(3, low.count, dtype=torch.bool)
    reduction = low.reduction(3, torch.tensor([False, True, False]), torch.arange(3), everything)
    merged = apply_reduction(TokenView(features, grid, torch.arange(3)), reduction).features
    size = (max(1, round(grid[0] * 2 / 3)), max(1, round(grid[1] * 2 / 3)))
    planes = features.transpose(1, 2).reshape(3, 4, *grid)
    shrunk = F.interpolate(planes, size=size, mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(merged, torch.cat([shrunk[0], features[1], shrunk[2]]))


def test_dycoke_keeps_what_changed() -> None:
    """Six frames of four positions: the first and fifth whole, the others by what they are compared with."""
    still = noise(1, 4, 8).repeat(6, 1, 1)
    for frame, place in ((1, 3), (2, 0), (3, 1), (5, 2)):
        still[frame, place] = noise(8, seed=frame + 10)
    still[3, 0] = still[2, 0]  # the fourth frame repeats the change of the third, which it is compared with
    kept = get_method("dycoke")(TokenView(still, (2, 2), torch.arange(6)), 0.5)
    whole = [0, 1, 2, 3, 16, 17, 18, 19]
    assert kept.anchors.tolist() == sorted([*whole, 4 + 3, 8 + 0, 12 + 1, 20 + 2])


def test_vidcom2_meets_the_budget_with_its_least_common_tokens() -> None:
    view = TokenView(noise(5, 9, 16), (3, 3), torch.arange(5))
    exact = get_method("vidcom2")(view, 0.3)
    rounded = get_method("vidcom2", official=True)(view, 0.3)
    one, two = set(exact.anchors.tolist()), set(rounded.anchors.tolist())
    assert len(one) == 14 and (one <= two or two <= one)  # what rounding left out came in, or the reverse
