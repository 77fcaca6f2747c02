"""Blocks for methods that keep some tokens as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.budget import even_split, token_budget
from vidcomp.tokens import Reduction, Span, TokenView

__all__ = ["even_budgets", "keep_marked", "keep_only", "top_mask"]


def keep_only(anchors: Tensor, total: int, spans: tuple[Span, ...] = ()) -> Reduction:
    """Keep the tokens at ``anchors`` [M], ascending flat indices, as they are, and drop the rest of ``total``."""
    assign = torch.full((total,), -1, dtype=torch.int64, device=anchors.device)
    assign[anchors] = torch.arange(anchors.numel(), device=anchors.device)
    return Reduction(anchors, assign, (assign >= 0).float(), spans)


def keep_marked(marked: Tensor, spans: tuple[Span, ...] = ()) -> Reduction:
    """Keep the tokens marked in ``marked`` [T, N] bool as they are, and drop the others."""
    return keep_only(marked.flatten().nonzero()[:, 0], marked.numel(), spans)


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
