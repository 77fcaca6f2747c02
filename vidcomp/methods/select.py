"""Blocks for methods that keep some tokens as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.tokens import Reduction, Span

__all__ = ["keep_only", "top_mask"]


def keep_only(anchors: Tensor, total: int, spans: tuple[Span, ...] = ()) -> Reduction:
    """Keep the tokens at ``anchors`` [M], ascending flat indices, as they are, and drop the rest of ``total``."""
    assign = torch.full((total,), -1, dtype=torch.int64, device=anchors.device)
    assign[anchors] = torch.arange(anchors.numel(), device=anchors.device)
    return Reduction(anchors, assign, (assign >= 0).float(), spans)


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
