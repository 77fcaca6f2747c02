# SPDX-License-Identifier: Apache-2.0
"""Blocks for methods that keep some tokens as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.budget import even_split, token_budget
from vidcomp.core.tokens import Reduction, Span, TokenView

__all__ = ["even_budgets", "keep_marked", "keep_only", "listed", "top_mask"]


def keep_only(anchors: Tensor, total: int, spans: tuple[Span, ...] = ()) -> Reduction:
    """Keep the tokens at ``anchors`` [M], ascending flat indices, as they are, and drop the rest of ``total``."""
    assign = torch.full((total,), -1, dtype=torch.int64, device=anchors.device)
    assign[anchors] = torch.arange(anchors.numel(), device=anchors.device)
    return Reduction(anchors, assign, (assign >= 0).float(), spans)


def keep_marked(marked: Tensor, spans: tuple[Span, ...] = ()) -> Reduction:
    """Keep the tokens marked in ``marked`` [T, N] bool as they are, and drop the others."""
    return keep_only(marked.flatten().nonzero()[:, 0], marked.numel(), spans)


def listed(
    kinds: Tensor, anchor: Tensor, weight: Tensor, spans: tuple[Span, ...] = (), key: Tensor | None = None
) -> Reduction:
    """Number the survivors frame by frame, kind by kind, each by position.

    Args:
        kinds: [T, K, N] bool, which tokens survive, and as which of K kinds.
        anchor: [T, N] int64, flat index of the survivor that each token joins, -1 for none.
        weight: [T, N] float32, share in it.
        spans: for the reduction.
        key: [T, N], what survivors of one frame and kind are ordered by, instead of their positions.
    """
    frame, kind, position = kinds.nonzero().unbind(1)
    anchors = frame * kinds.shape[2] + position
    if key is not None:
        order = key.flatten()[anchors].argsort(stable=True)
        anchors = anchors[order][(frame * kinds.shape[1] + kind)[order].argsort(stable=True)]
    number = torch.full((anchor.numel(),), -1, device=anchor.device)
    number[anchors] = torch.arange(anchors.numel(), device=anchor.device)
    flat = anchor.flatten()
    assign = torch.where(flat >= 0, number[flat.clamp(min=0)], -1)
    return Reduction(anchors, assign, weight.flatten(), spans, raster=False)


def even_budgets(view: TokenView, keep: float) -> Tensor:
    """The token budget of the whole video spread evenly over its frames, for methods that treat each frame alone.

    Returns:
        [T] int64, on the view's device; they differ by at most one and may be zero.
    """
    counts = even_split(token_budget(view.total, keep), view.features.shape[0])
    return torch.from_numpy(counts).to(view.features.device)


def top_mask(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the largest entries of each row, ties to the lower index.

    Args:
        scores: [R, N].
        counts: [R] int64, how many to mark in each row.

    Returns:
        [R, N] bool.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    marked = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return torch.zeros_like(marked).scatter_(1, order, marked)
