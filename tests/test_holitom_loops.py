# SPDX-License-Identifier: Apache-2.0
"""HoliTom against plain loops written from the description of the method, on inputs that no golden covers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import best_windows, loops_halving, loops_holitom

from vidcomp.bench.compress import bench_compress, made_up_view
from vidcomp.core.tokens import apply_reduction, merge_rows
from vidcomp.errors import UsageError
from vidcomp.methods.blocks.global_dp import global_spans, static_positions
from vidcomp.methods.blocks.similarity import _block_products, _sampled_products, neighbour_cosine
from vidcomp.methods.holitom import Holitom
from vidcomp.schedules.blocks.merge import halving_merge, halving_weights, kept_count

RULES = list(itertools.product([0.6, None], [0.0, 0.4], [1024, 3]))


@pytest.mark.parametrize(("beta", "contextual", "max_span"), RULES)
@pytest.mark.parametrize("shape", [(9, 25, 24), (17, 36, 40), (2, 49, 64)])
@pytest.mark.parametrize("keep", [0.1, 0.3])
def test_outer_equals_loops(
    shape: tuple[int, int, int], keep: float, beta: float | None, contextual: float, max_span: int
) -> None:
    view = made_up_view(shape, seed=shape[0], scene_frames=5)
    assert view.salience is not None
    reduction = Holitom(0.7, beta, 7, contextual, max_span)(view, keep)
    expected = loops_holitom(view.features, view.salience, keep, 0.7, beta, 7, contextual, max_span)
    assert [tuple(span) for span in reduction.spans] == expected.windows
    assert reduction.anchors.tolist() == [frame * shape[1] + position for frame, position, _ in expected.places]
    torch.testing.assert_close(
        apply_reduction(view, reduction).features, torch.stack(expected.rows), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_loops_on_the_same_values(dtype: torch.dtype) -> None:
    view = made_up_view((9, 25, 24), dtype=dtype)
    assert view.salience is not None
    reduction = Holitom(0.7)(view, 0.3)
    expected = loops_holitom(view.features.float(), view.salience, 0.3, 0.7)
    assert reduction.anchors.tolist() == [frame * 25 + position for frame, position, _ in expected.places]
    torch.testing.assert_close(apply_reduction(view, reduction).features, torch.stack(expected.rows).to(dtype))


@settings(max_examples=60)
@given(shape=st.tuples(*[st.integers(1, 7)] * 3), half=st.booleans(), seed=st.integers(0, 99))
def test_similarity_is_the_cosine(shape: tuple[int, int, int], half: bool, seed: int) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    features = features.bfloat16() if half else features
    features[0, 0] = 0
    if shape[0] > 2:
        features[2] = features[1]
    expected = torch.cosine_similarity(features[:-1].double(), features[1:].double(), dim=-1).float()
    found = neighbour_cosine(features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert shape[0] < 3 or bool((found[1] == 1).all())
    for one, other in zip(_block_products(features.float()), _sampled_products(features.float()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_similarity_in_blocks_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(7, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = neighbour_cosine(features)
    for frames in (1, 2, 3, 6):
        monkeypatch.setattr(
            "vidcomp.methods.blocks.similarity.block_bytes", lambda device, frames=frames: frames * 4 * 4 * 8
        )
        assert torch.equal(neighbour_cosine(features), whole)


def test_similarity_of_extreme_lengths() -> None:
    features = torch.tensor([[[1e18, 1e18]], [[1e-18, 1e-18]]])
    assert neighbour_cosine(features).item() == pytest.approx(1)


@settings(max_examples=80)
@given(
    frames=st.integers(1, 12),
    tokens=st.integers(1, 9),
    share=st.floats(0, 1),
    max_span=st.integers(1, 14),
    seed=st.integers(0, 999),
)
def test_spans_equal_loops(frames: int, tokens: int, share: float, max_span: int, seed: int) -> None:
    similar = torch.rand(frames - 1, tokens, generator=torch.Generator().manual_seed(seed)) < share
    spans, saved = global_spans(similar, max_span=max_span)
    windows, best = best_windows(similar, frames, max_span)
    assert [tuple(span) for span in spans] == windows
    assert saved == best == sum(span.static * (len(span) - 1) for span in spans)
    assert static_positions(similar.numpy(), spans).sum(1).tolist() == [span.static for span in spans]


def test_spans_take_similarities_of_any_kind() -> None:
    table = torch.tensor([[0.9, 0.9], [0.1, 0.9]])
    expected = global_spans(table, 0.5)
    assert global_spans(table.numpy(), 0.5) == global_spans(table.bfloat16(), 0.5) == expected
    assert global_spans(np.asarray(table > 0.5)) == expected
    for wrong in (
        lambda: global_spans(table),
        lambda: global_spans(table[0], 0.5),
        lambda: global_spans(table, 0.5, 0),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_spans_of_a_long_video() -> None:
    """1024 frames that never change are the most work there is for the search."""
    spans, saved = global_spans(torch.ones(1023, 196, dtype=torch.bool))
    assert [tuple(span) for span in spans] == [(0, 1023)] and saved == 1023 * 196


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    width=st.integers(2, 24),
    ratio=st.floats(0, 1),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_inner_equals_loops(rows: int, width: int, ratio: float, batch: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    hidden, scores = torch.randn(batch, rows, width, generator=draw), torch.rand(batch, rows, generator=draw)
    kept, merged = halving_merge(hidden, scores, ratio)
    assert kept.shape == (batch, kept_count(rows, ratio))
    for one in range(batch):
        expected, features = loops_halving(hidden[one], scores[one], ratio)
        assert kept[one].tolist() == expected
        torch.testing.assert_close(merged[one], features.float(), rtol=1e-5, atol=1e-5)


def test_inner_with_hundreds_of_rows_into_one() -> None:
    hidden = torch.randn(1, 400, 8, generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(1, 400)
    kept, merged = halving_merge(hidden, scores, 1.0)
    expected, features = loops_halving(hidden[0], scores[0], 1.0)
    assert kept.tolist() == [expected] == [[0]]
    torch.testing.assert_close(merged[0], features.float())
    share, centre = halving_weights(torch.zeros(1, 399, dtype=torch.int64), 1)
    assert float(share.sum() + centre.sum()) == pytest.approx(1.0) and bool(torch.isfinite(share).all())


def test_inner_keeps_unmerged_rows_to_the_bit() -> None:
    hidden = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    kept, merged = halving_merge(hidden, torch.rand(2, 12), 0.0)
    assert torch.equal(merged, hidden) and kept.tolist() == [list(range(12))] * 2


def test_inner_in_blocks_equals_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, scores = torch.randn(1, 90, 16, generator=draw), torch.rand(1, 90, generator=draw)
    hidden[:, 40:60] = hidden[:, :20]  # equal rows: ties across blocks
    whole = halving_merge(hidden, scores, 0.6)
    monkeypatch.setattr("vidcomp.schedules.blocks.merge._BLOCK_BYTES", 7 * (12 * 16 + 8192))
    blocks = halving_merge(hidden, scores, 0.6)
    assert torch.equal(whole[0], blocks[0]) and torch.equal(whole[1], blocks[1])


@pytest.mark.parametrize(("rows", "ratio"), [((1, 0, 4), 0.5), ((1, 3, 4), 1.5), ((3, 4), 0.5)])
def test_inner_refuses_what_does_not_fit(rows: tuple[int, ...], ratio: float) -> None:
    with pytest.raises(ValueError):
        halving_merge(torch.zeros(rows), torch.zeros(rows[:2]), ratio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merge_rows_sums_in_float32(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, weights = torch.randn(50, 33, generator=draw).to(dtype), torch.rand(50, generator=draw)
    owner = torch.randint(-1, 6, (50,), generator=draw)
    owner[owner == 4] = 5  # nobody belongs to 4
    table = torch.stack([torch.where(owner == one, weights, 0.0) for one in range(6)]).double()
    torch.testing.assert_close(
        merge_rows(rows, owner, weights, 6), (table @ rows.double()).float(), rtol=1e-5, atol=1e-5
    )


def test_bench_reports_what_it_did() -> None:
    timing = bench_compress("holitom", shape=(4, 16, 32), keep=0.25, repeats=3, threads=1)
    assert (timing.shape, timing.threads, timing.repeats, timing.dtype) == ((4, 16, 32), 1, 3, "float32")
    assert 0 < timing.p10_seconds <= timing.median_seconds <= timing.p90_seconds
    assert timing.feature_bytes == 4 * 16 * 32 * 4 and timing.kept >= 4
    assert timing.to_dict()["shape"] == [4, 16, 32]
    with pytest.raises(UsageError):
        bench_compress("no such method", shape=(2, 4, 8))
    with pytest.raises(ValueError):
        bench_compress("holitom", shape=(0, 4, 8))
