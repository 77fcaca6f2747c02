# SPDX-License-Identifier: Apache-2.0
"""Spans that someone else has found bound those of every method that works in spans."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods_properties import SETTINGS, make_view, same

from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods import get_method, list_methods
from vidcomp.methods.blocks.fitted import fitted
from vidcomp.methods.blocks.global_dp import given_spans, global_spans
from vidcomp.methods.blocks.pieces import pieces

IN_SPANS = {"holitom", "fastvid", "flashvid", "prunevid", "kitoke", "aot", "cluster", "lftr_like"}
ROWS = [(name, parameters) for name, parameters in SETTINGS if name in IN_SPANS]


def cut_at(starts: set[int], frames: int) -> tuple[Span, ...]:
    bounds = [0, *sorted(start for start in starts if 0 < start < frames), frames]
    return tuple(Span(first, end - 1) for first, end in pairwise(bounds))


def crossings(reduction: Reduction, spans: tuple[Span, ...], tokens: int) -> list[tuple[int, int]]:
    """Tokens that are merged into a survivor of another span: (token, survivor's own flat index)."""
    span_of = torch.tensor([number for number, span in enumerate(spans) for _ in range(len(span))])
    token, survivor = reduction.assign.ge(0).nonzero()[:, 0], reduction.assign[reduction.assign >= 0]
    if reduction.more is not None:
        token = torch.cat([token, reduction.more.token])
        survivor = torch.cat([survivor, reduction.more.survivor])
    anchor = reduction.anchors[survivor]
    across = span_of[token // tokens] != span_of[anchor // tokens]
    return list(zip(token[across].tolist(), anchor[across].tolist(), strict=True))


def test_what_the_classes_say_is_what_is_tested_here():
    assert {row.name for row in list_methods() if row.span_rule} == IN_SPANS


@pytest.mark.parametrize(("name", "parameters"), ROWS, ids=[f"{name}-{len(given_)}" for name, given_ in ROWS])
@given(
    frames=st.integers(2, 12), starts=st.sets(st.integers(1, 11)), keep=st.floats(0.02, 0.95), seed=st.integers(0, 99),
    kind=st.sampled_from(["scenes", "noise", "still", "one value"]),
)  # fmt: skip
@settings(max_examples=6, deadline=None)
def test_nothing_is_merged_across_a_given_boundary(name, parameters, frames, starts, keep, seed, kind):
    """Most of all not in a still video, where every method would merge all frames."""
    spans = cut_at(starts, frames)
    view = replace(make_view(kind, (frames, 9, 16), torch.float32, seed), spans=spans)
    reduction = get_method(name, **parameters)(view, keep)
    assert not crossings(reduction, spans, 9)
    assert {span.start for span in spans} <= {span.start for span in reduction.spans}
    assert not crossings(fitted(view, reduction, max(1, round(keep * view.total))), spans, 9)


@pytest.mark.parametrize("name", ["holitom", "prunevid", "lftr_like", "kitoke", "fastvid", "flashvid"])
def test_a_still_video_is_merged_over_each_given_span(name):
    """Not only are boundaries kept: what lies between them is one span, and is merged over it."""
    view = make_view("still", (12, 9, 16), torch.float32, 0)
    for spans in (cut_at({5}, 12), cut_at({2, 7}, 12)):
        reduction = get_method(name)(replace(view, spans=spans), 0.5)
        found = [tuple(span) for span in reduction.spans]
        assert name == "lftr_like" or found == [tuple(span) for span in spans]
        frame = reduction.anchors[reduction.assign.clamp(min=0)] // 9
        merged = (frame != torch.arange(12 * 9) // 9) & (reduction.assign >= 0)
        assert merged.any()


@pytest.mark.parametrize("name", sorted(IN_SPANS))
def test_its_own_spans_given_back_change_nothing(name):
    """Without given spans a method finds its own; the same ones given lead to the same decision."""
    method = get_method(name)
    view = make_view("scenes", (12, 9, 16), torch.float32, 3)
    own = method(view, 0.2)
    again = method(replace(view, spans=tuple(Span(span.start, span.end) for span in own.spans)), 0.2)
    assert same(own, again)


def test_given_spans_count_as_the_best_ones_are_counted():
    draw = torch.Generator().manual_seed(0)
    similar = (torch.rand(11, 30, generator=draw) > 0.3).numpy()
    spans, saved = global_spans(similar)
    assert given_spans(similar, [Span(span.start, span.end) for span in spans]) == (spans, saved)


def test_pieces_are_of_one_size_and_begin_anew():
    assert [tuple(span) for span in pieces(10, 4)] == [(0, 3), (4, 7), (8, 9)]
    assert [tuple(span) for span in pieces(10, 4, cut_at({5}, 10))] == [(0, 3), (4, 4), (5, 8), (9, 9)]


@pytest.mark.parametrize("spans", [(Span(0, 2),), (Span(0, 1), Span(3, 3)), (Span(1, 3),), (Span(0, 4),)])
def test_spans_of_a_view_cover_its_frames(spans):
    with pytest.raises(ValueError, match="side by side over all 4 frames"):
        TokenView(torch.zeros(4, 1, 2), (1, 1), torch.arange(4), spans=spans)
