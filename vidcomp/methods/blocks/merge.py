# SPDX-License-Identifier: Apache-2.0
"""From "who joins whom" to a reduction."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.tokens import Reduction, Span, merge_rows

__all__ = ["mean_of_members", "weighted_mean"]


def mean_of_members(anchor: Tensor, spans: tuple[Span, ...] = ()) -> Reduction:
    """Every survivor is the mean of its members.

    Args:
        anchor: [T * N] int64, flat index of the survivor that each token joins, its own for a survivor, -1 for a
            dropped token.

    Returns:
        Survivors in raster order.
    """
    return weighted_mean(anchor, torch.ones(anchor.shape, device=anchor.device), spans)


def weighted_mean(anchor: Tensor, weight: Tensor, spans: tuple[Span, ...] = ()) -> Reduction:
    """Every survivor is the mean of its members by weight.

    Args:
        anchor: as in :func:`mean_of_members`.
        weight: [T * N] float32, above zero where a token joins a survivor.
    """
    every = torch.arange(anchor.numel(), device=anchor.device)
    survives = anchor == every
    number = survives.cumsum(0) - 1
    assign = torch.where(anchor >= 0, number[anchor.clamp(min=0)], -1)
    sums = merge_rows(weight[:, None], assign, torch.ones_like(weight), int(survives.sum()))[:, 0]
    share = torch.where(assign >= 0, weight / sums[assign.clamp(min=0)], 0.0)
    return Reduction(every[survives], assign, share, spans)
