# SPDX-License-Identifier: Apache-2.0
"""Outer methods without goldens equal loops written from their formulas, and small cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import method_loops as loops
import numpy as np
import pytest
import torch
import video_method_loops as video

from vidcomp.bench.compress import made_up_view
from vidcomp.core.tokens import Reduction, TokenView, apply_reduction
from vidcomp.errors import UsageError
from vidcomp.methods import get_method
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.facility import Coverage, facility_location
from vidcomp.methods.blocks.projection import projected
from vidcomp.methods.globalcom2 import mosaic_parts
from vidcomp.methods.kitoke import crowding, inclusion, pivotal, systematic
from vidcomp.methods.unified_st import first_independent
from vidcomp.methods.v_cast import bends
from vidcomp.video.keyframes import key_times

GRID = (4, 4)


def random_view(seed: int, frames: int = 4, width: int = 12, grid: tuple[int, int] = GRID) -> TokenView:
    """Every signal, without ties; neighbouring frames are alike, and a scene changes now and then."""
    draw = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    features = made_up_view((frames, tokens, width), seed=seed, scene_frames=3).features
    signal = torch.rand(5, frames, tokens, generator=draw)
    salience, attention, layers = signal[0], signal[1], signal[2:].permute(1, 2, 0).contiguous()
    return TokenView(
        features, grid, torch.arange(frames).float(), salience=salience, cls_attention=attention, cls_by_layer=layers,
        keys=torch.randn(frames, tokens, 6, generator=draw), query=torch.randn(3, width, generator=draw),
        encoder_features=torch.randn(frames, tokens, 5, generator=draw),
    )  # fmt: skip


def array(tensor: torch.Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.double().numpy()


def joins(reduction: Reduction) -> list[int]:
    """For every token the token it joins, -1 for none."""
    anchors = reduction.anchors.tolist()
    return [anchors[a] if a >= 0 else -1 for a in reduction.assign.tolist()]


def check(reduction: Reduction, joined: list[int], weights: list[float] | None = None) -> None:
    """The same survivors with the same members; weights are equal shares unless given."""
    assert joins(reduction) == joined
    raw = weights if weights is not None else [1.0] * len(joined)
    sums = {a: sum(w for w, to in zip(raw, joined, strict=True) if to == a) for a in set(joined)}
    expected = [w / sums[to] if to >= 0 else 0.0 for w, to in zip(raw, joined, strict=True)]
    torch.testing.assert_close(reduction.weights, torch.tensor(expected), rtol=1e-4, atol=1e-5)


every_case = pytest.mark.parametrize(("seed", "keep"), [(0, 0.12), (1, 0.3), (2, 0.55)])


@every_case
def test_selecting_methods(seed: int, keep: float) -> None:
    view = random_view(seed)
    x, layers = array(view.features), array(view.cls_by_layer)
    check(get_method("evs")(view, keep), loops.evs(x, keep))
    check(get_method("fopru")(view, keep), loops.per_frame(array(view.salience), keep))
    check(get_method("vtc_cls")(view, keep), loops.per_frame(layers[..., 1:].sum(-1), keep))
    check(get_method("vtc_cls", start=2)(view, keep), loops.per_frame(layers[..., 2], keep))
    check(get_method("v_cast")(view, keep), loops.v_cast(x, keep))
    check(get_method("todre")(view, keep), loops.dispersed(x, array(view.cls_attention), keep))


@pytest.mark.parametrize(("seed", "keep", "grid"), [(0, 0.12, (4, 4)), (1, 0.3, (3, 5)), (2, 0.55, (3, 4))])
def test_gleanvid(seed: int, keep: float, grid: tuple[int, int]) -> None:
    view = random_view(seed, width=50, grid=grid)  # wide enough that kept tokens do not span everything
    check(get_method("gleanvid")(view, keep), video.gleanvid(array(view.features), grid, keep))


@every_case
def test_mmtok(seed: int, keep: float) -> None:
    view = random_view(seed, frames=3)
    x, encoded, query = array(view.features), array(view.encoder_features), array(view.query)
    check(get_method("mmtok", window=2)(view, keep), loops.covered(x, encoded, query, keep, 2))


@every_case
def test_vscan(seed: int, keep: float) -> None:
    view, side = random_view(seed), 2 + seed % 2
    layers = array(view.cls_by_layer)
    expected = loops.vscan(array(view.features), layers[..., 1], layers[..., 2], GRID, keep, side)
    check(get_method("vscan", windows=side)(view, keep), expected)


@every_case
def test_folding_methods(seed: int, keep: float) -> None:
    view = random_view(seed)
    x, attention = array(view.features), array(view.cls_attention)
    check(get_method("tome")(view, keep), loops.folded(x, array(view.keys), 0 * attention, keep, first=True))
    check(get_method("turbo", alpha=0.02)(view, keep), loops.folded(x, x, 0.6 * attention, keep, first=False))


@every_case
def test_merging_methods(seed: int, keep: float) -> None:
    view = random_view(seed)
    x, salience = array(view.features), array(view.salience)
    check(get_method("lftr_like")(view, keep), loops.lftr_like(x, keep))
    check(get_method("unified_st")(view, keep), loops.unified(x, salience, keep, 0.7))
    check(get_method("unified_st", tau=0.2)(view, keep), loops.unified(x, salience, keep, 0.2))
    check(get_method("kffocus")(view, keep), video.kffocus(x, salience, GRID, keep))


@pytest.mark.parametrize(("seed", "keep"), [(0, 0.12), (1, 0.3), (2, 0.3)])
def test_cluster(seed: int, keep: float) -> None:
    view = replace(random_view(seed), features=torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(seed)))
    check(get_method("cluster", window=2)(view, keep), video.kmeans(array(view.features), keep, 2))


@every_case
def test_flashvid(seed: int, keep: float) -> None:
    view = random_view(seed, frames=10)
    x, salience = array(view.features), array(view.salience)
    for link in (0.8, 0.3):
        check(get_method("flashvid", link=link)(view, keep), *video.flashvid(x, salience, keep, link))


@every_case
def test_recoverable(seed: int, keep: float) -> None:
    view = random_view(seed, grid=(6, 7))
    attention = array(view.cls_attention) ** 6  # so that some stand out
    view = replace(view, cls_attention=torch.from_numpy(attention))
    expected = video.recoverable(array(view.features), attention, array(view.keys), array(view.query), keep)
    check(get_method("recoverable")(view, keep), *expected)


@every_case
def test_kitoke(seed: int, keep: float) -> None:
    """Whoever was drawn: crowding, intervals, and who joins whom with which weight."""
    view = random_view(seed, frames=9)
    rows, x = array(view.features).reshape(-1, 12), array(view.features)
    reduction = get_method("kitoke", seed=seed)(view, keep)
    sample = rows  # fewer than 512: all of them
    apart = [float(((a - b) ** 2).sum()) for i, a in enumerate(sample) for b in sample[:i]]
    crowd = video.crowding(rows, 0.2 * sorted(apart)[(len(apart) - 1) // 2])
    difference = np.array(video.differences(x))
    level = np.median(difference) + 3 * 1.4826 * np.median(np.abs(difference - np.median(difference)))
    rise = np.diff(difference, prepend=difference[0])
    relative = rise > 0.4 * (difference - rise)
    cut = (difference > level) | ((rise > 70 / 110 * level) & relative)
    part = np.repeat(np.concatenate([[0], cut.cumsum()]), 16)
    drawn = reduction.anchors.tolist()
    joined = [max((d for d in drawn if part[d] == part[i]), key=lambda d: (loops.cos(rows[i], rows[d]), -d), default=-1)
              if i not in drawn else i for i in range(len(rows))]  # fmt: skip
    assert len(drawn) == int(9 * 16 * keep + 1e-9) and len(reduction.spans) == part[-1] + 1
    check(reduction, joined, [1 / d for d in crowd])


def test_pivotal_sampling_keeps_every_probability() -> None:
    chance = inclusion(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 40, 80]), 5)
    assert chance[-1] == 1 and chance.sum() == pytest.approx(5)
    assert chance[:-2] / chance[0] == pytest.approx(np.arange(1, 11))  # the others stay in proportion
    drawn = np.array([pivotal(chance, seed) for seed in range(2000)])
    assert (drawn.sum(axis=1) == 5).all()
    sigma = np.sqrt(chance * (1 - chance) / len(drawn))
    assert (np.abs(drawn.mean(axis=0) - chance) <= 3.5 * sigma + 1e-12).all()
    assert systematic(chance).sum() == 5


def test_copies_share_their_weight() -> None:
    rows = torch.tensor([[0.0, 0], [0, 0], [9, 9], [-9, 9], [9, -9]])
    assert crowding(rows, 1e-3).tolist() == pytest.approx([2, 2, 1, 1, 1])


def test_llavolta_by_hand() -> None:
    view = TokenView(torch.arange(10.0).reshape(2, 5, 1), (1, 5), torch.arange(2.0))
    reduction = get_method("llavolta")(view, 0.2)
    assert reduction.anchors.tolist() == [2, 7]  # the middle of each run of five
    assert apply_reduction(view, reduction).features.flatten().tolist() == pytest.approx([2, 7])
    assert get_method("llavolta")(view, 0.3).assign.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_rows_of_fopru() -> None:
    salience = torch.tensor([[9.0, 0, 1, 1, 4, 4], [0, 0, 3, 3, 1, 1]])
    view = TokenView(torch.randn(2, 6, 3), (3, 2), torch.arange(2.0), salience=salience)
    assert get_method("fopru", mode="rows")(view, 0.4).anchors.tolist() == [0, 1, 8, 9]  # floor(2.4) rows
    assert get_method("fopru", mode="rows")(view, 0.1).anchors.tolist() == [8, 9]


def test_the_first_frame_of_evs_with_a_budget() -> None:
    features = torch.eye(4)[torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [1, 1, 2, 3]])]
    view = TokenView(features, (1, 4), torch.arange(3.0))
    assert get_method("evs")(view, 0.2).anchors.tolist() == [0, 1, 2, 3]  # never less than the first frame
    assert get_method("evs", first="budget")(view, 0.25).anchors.tolist() == [2, 4, 8]  # ties to the earlier token
    assert get_method("evs")(view, 0.45).anchors.tolist() == [0, 1, 2, 3, 8]  # floor(5.4)


def test_bends_by_hand() -> None:
    path = torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 1], [2, 0], [2, 0]])
    assert bends(path).tolist() == pytest.approx([1, 0, 1, 2, 1, 1])  # straight on, a right angle, back, no step


def test_a_static_clip_gives_each_position_once() -> None:
    still = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).expand(5, 6, 10).clone()
    view = TokenView(still, (2, 3), torch.arange(5.0), salience=torch.rand(5, 6))
    anchors = get_method("unified_st", clusters=0)(view, 0.2).anchors
    assert sorted((anchors % 6).tolist()) == list(range(6))


def test_globalcom2_gives_important_crops_more() -> None:
    draw = torch.Generator().manual_seed(0)
    attention = torch.rand(5, 4, generator=draw)
    attention[0] = torch.tensor([60.0, 0, 0, 0])  # the thumbnail looks at the top left only
    view = TokenView(torch.randn(5, 4, 3, generator=draw), (2, 2), torch.arange(5.0), cls_attention=attention)
    reduction = get_method("globalcom2", mosaic="2x2")(view, 0.5)
    kept = torch.bincount(reduction.anchors // 4, minlength=5).tolist()
    parts = mosaic_parts(attention[0].reshape(2, 2), 2, 2)
    assert parts[0].tolist() == [60.0, 45.0, 45.0, 33.75]  # bilinear, edges as they are
    weight = torch.softmax(parts.sum(1) / 10, 0)
    shares = (1 + weight - 0.25).tolist()
    assert kept == [2, *loops.largest_remainder(shares, 8, 4)]
    own = attention[1] / attention[1].norm() + parts[0] / parts[0].norm()
    assert [a - 4 for a in reduction.anchors.tolist() if 4 <= a < 8] == loops.best(own.tolist(), kept[1])
    with pytest.raises(UsageError, match="for 5 pictures"):
        get_method("globalcom2", mosaic="2x3")(view, 0.5)


def test_key_times_by_hand() -> None:
    found = key_times([0, 10, 12, 100], 100.0)
    assert found.keys == (0, 10, 12, 100)
    gaps = [round(t, 6) for t in found.added]
    assert gaps[:2] == [round(10 / 3, 6), round(20 / 3, 6)] and len(gaps) == 2 + 17  # 10 / 5 and 88 / 5, rounded down
    assert all(0 < b - a <= 5 + 1e-6 for a, b in pairwise([12, *[g for g in gaps if g > 12], 100]))
    assert key_times([30.0], 100.0).keys == (0.0,)  # one says nothing
    assert key_times([0.1 * i for i in range(300)], 30.0).keys == (0.0,)  # all-intra neither
    assert key_times([2.0, 50.0], 100.0).keys == (0.0, 2.0, 50.0)  # the start was not seen
    assert key_times([0, 10, 12, 100], 100.0, limit=3).keys == (0, 12, 100)  # without 10 the gap is shortest
    limited = key_times([0, 50], 100.0, limit=5)
    assert limited.keys == (0, 50) and np.allclose(limited.added, (50 / 3, 100 / 3, 75))
    assert np.allclose(key_times([0], 100.0, limit=5).added, (20, 40, 60, 80))  # not the first four of twenty


@pytest.mark.parametrize("seed", range(20))
def test_lazy_facility_location_equals_the_plain_rule(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randint(4, (10, 3), generator=draw).float()  # ties on purpose
    own = torch.randint(3, (3, 4, 4), generator=draw).float()
    table = torch.cat([shared, torch.block_diag(*own)[:10]], 1).tolist()
    held, picks = [0.0] * 15, []
    for _ in range(6):
        gain = {
            j: sum(max(0.0, v - b) for v, b in zip(table[j], held, strict=True)) for j in range(10) if j not in picks
        }
        picks.append(min(gain, key=lambda j: (-gain[j], j)))
        held = [max(b, v) for v, b in zip(table[picks[-1]], held, strict=True)]
    assert facility_location(Coverage(shared, own), 6).tolist() == picks


def test_walking_and_conflicts_give_the_same_set() -> None:
    draw = torch.Generator().manual_seed(1)
    for _ in range(30):
        conflict = (torch.rand(12, 12, generator=draw) < 0.25).tril(-1)
        allowed = torch.rand(12, generator=draw) < 0.8
        accepted: list[int] = []
        for i in range(12):
            if allowed[i] and not any(conflict[i, j] for j in accepted):
                accepted.append(i)
        assert first_independent(conflict, allowed).nonzero()[:, 0].tolist() == accepted


def test_equal_rows_are_found_whatever_hides_them() -> None:
    draw = torch.Generator().manual_seed(0)
    for width in (1, 3, 70, 200):
        rows = torch.randint(2, (60, width), generator=draw).float()
        rows[:, ::2] = 0  # all alike in the columns that are looked at first
        rows[30:], rows[3] = rows[:30].clone(), -0.0
        expected = [next(j for j in range(60) if bool((rows[j] == rows[i]).all())) for i in range(60)]
        assert first_equal(rows).tolist() == expected


def test_a_projection_keeps_distances_and_a_narrow_row() -> None:
    rows = torch.randn(30, 600, generator=torch.Generator().manual_seed(0))
    ratio = torch.pdist(projected(rows, 128)) / torch.pdist(rows)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05) and float(ratio.std()) < 0.1
    assert projected(rows, 0) is rows and projected(rows, 600) is rows
