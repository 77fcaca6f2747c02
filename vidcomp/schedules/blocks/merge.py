# SPDX-License-Identifier: Apache-2.0
"""Merging of dropped rows into kept ones, as pure tensor functions: HoliTom's halving merge, and means.

Source: "HoliTom: Holistic Token Merging for Fast Video Large Language Models", NeurIPS 2025, arXiv 2505.21334.
In plain words: keep the rows with the largest score; each dropped row, in ascending order, moves its most similar kept
row half-way towards itself. The loop has a closed form: with m rows merged into a kept row h0, in order h1..hm,
``h = h0 / 2**m + sum_j hj / 2**(m - j + 1)``; later rows weigh more, and the weights sum to one.

Dimension letters: B sequences, V visual rows, W kept rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.tokens import merge_rows
from vidcomp.schedules.blocks.rows import ranks_of

__all__ = [
    "dropped_rows",
    "halving_merge",
    "halving_weights",
    "kept_count",
    "mean_merge",
    "merged_into",
    "most_similar",
]

_BLOCK_BYTES = 48 << 20  # all temporaries of one block of similarities together


def kept_count(rows: int, ratio: float) -> int:
    """``round(rows * (1 - ratio))``, halves to the even integer; at least 1, where the published code fails at 0."""
    return max(1, min(rows, round(rows * (1 - ratio))))


def halving_merge(hidden: Tensor, scores: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Remove the share ``ratio`` of the rows and merge them into the others.

    Args:
        hidden: [B, V, D] rows entering the layer, any float dtype.
        scores: [B, V], larger stays.
        ratio: in [0, 1].

    Returns:
        kept [B, W] int64 ascending, and their new values [B, W, D] in the dtype of ``hidden``, with
        W = kept_count(V, ratio). A kept row into which nothing was merged is unchanged to the bit.

    Raises:
        ValueError: shapes that do not fit, no rows, or a ratio outside [0, 1].
    """
    if hidden.dim() != 3 or hidden.shape[1] == 0 or scores.shape != hidden.shape[:2]:
        raise ValueError(
            f"hidden [B, V, D] and scores [B, V] do not fit: {list(hidden.shape)} and {list(scores.shape)}"
        )
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    rows = hidden.shape[1]
    survivors = kept_count(rows, ratio)
    order = scores.argsort(dim=1, descending=True, stable=True)  # equal scores: the lower index stays
    ranked = order[:, :survivors]
    dropped = order[:, survivors:].sort(dim=1).values  # [B, V - W]
    kept, rank = ranked.sort(dim=1)
    best = most_similar(hidden, dropped, ranked)  # as published, equal similarity goes to the larger score
    target = torch.empty_like(rank).scatter_(1, rank, _count_up(rank)).gather(1, best)
    share, centre = halving_weights(target, survivors)
    return kept, merged_into(hidden, kept, dropped, target, share, centre)


def dropped_rows(kept: Tensor, rows: int) -> Tensor:
    """The indices that are not among ``kept`` [B, W], ascending: [B, rows - W]."""
    marked = torch.ones(kept.shape[0], rows, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
    return ranks_of(marked, rows - kept.shape[1])


def mean_merge(hidden: Tensor, kept: Tensor, dropped: Tensor, target: Tensor, summed: bool = False) -> Tensor:
    """Every kept row becomes the mean of itself and the rows that are dropped into it.

    Args:
        hidden: [B, V, D]; kept: [B, W] and dropped: [B, X], indices into V.
        target: [B, X], which of the W each dropped row joins.
        summed: add the mean of the dropped rows to the kept row instead, as some published codes do.

    Returns:
        [B, W, D] in the dtype of ``hidden``.
    """
    one = torch.ones(target.shape, device=hidden.device)
    joined = torch.zeros(kept.shape, device=hidden.device).scatter_add_(1, target, one)
    if summed:
        return merged_into(hidden, kept, dropped, target, 1 / joined.gather(1, target), torch.ones_like(joined))
    centre = 1 / (1 + joined)
    return merged_into(hidden, kept, dropped, target, centre.gather(1, target), centre)


def merged_into(hidden: Tensor, kept: Tensor, dropped: Tensor, target: Tensor, share: Tensor, centre: Tensor) -> Tensor:
    """Weighted sums in float32: kept row w = centre[w] * itself + the sum of share[x] * dropped row x over its members.

    Args:
        hidden: [B, V, D]; kept: [B, W] and dropped: [B, X], indices into V; rows in neither are left out.
        target: [B, X], which of the W each dropped row joins.
        share: [B, X]; centre: [B, W], float32.

    Returns:
        [B, W, D] in the dtype of ``hidden``.
    """
    (batch, rows, width), survivors = hidden.shape, kept.shape[1]
    owner = torch.full((batch, rows), -1, device=kept.device)
    owner.scatter_(1, kept, _count_up(kept)).scatter_(1, dropped, target)
    weights = torch.zeros(batch, rows, device=hidden.device)
    weights.scatter_(1, kept, centre).scatter_(1, dropped, share)
    offset = survivors * torch.arange(batch, device=kept.device)[:, None]
    owner = torch.where(owner >= 0, owner + offset, owner)
    merged = merge_rows(hidden.reshape(-1, width), owner.reshape(-1), weights.reshape(-1), batch * survivors)
    return merged.reshape(batch, survivors, width).to(hidden.dtype)


def most_similar(hidden: Tensor, dropped: Tensor, kept: Tensor) -> Tensor:
    """For every dropped row the kept row of largest cosine similarity, in float32, ties to the one listed first.

    The length of the dropped row does not change which kept row wins, so only kept rows are scaled. Both sides are
    walked in blocks, so the temporaries stay under 64 MB for any number of rows. A zero vector is similar to none.

    Args:
        hidden: [B, V, D]; dropped: [B, X] and kept: [B, W], int64 indices into V.

    Returns:
        [B, X] int64 indices into W.
    """
    width = hidden.shape[2]
    step = max(
        1, min(1024, _BLOCK_BYTES // (12 * width + 8192))
    )  # gathered, widened, scaled rows; two [step, step] tables
    parts = [_best(item, out, into, step) for item, out, into in zip(hidden, dropped, kept, strict=True)]
    return torch.stack(parts)


def _best(hidden: Tensor, dropped: Tensor, kept: Tensor, step: int) -> Tensor:
    """:func:`most_similar` of one sequence: [V, D], [X], [W] to [X]."""
    best = torch.full(dropped.shape, -torch.inf, device=hidden.device)
    where = torch.zeros_like(dropped)
    for start in range(0, kept.numel(), step):
        into = hidden[kept[start : start + step]].float()
        into /= torch.linalg.vector_norm(into, dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        for at in range(0, dropped.numel(), step):
            value, index = (hidden[dropped[at : at + step]].float() @ into.T).max(dim=1)
            better = value > best[at : at + step]  # strict: an equal later row does not win
            best[at : at + step] = torch.where(better, value, best[at : at + step])
            where[at : at + step] = torch.where(better, index + start, where[at : at + step])
    return where


def halving_weights(target: Tensor, survivors: int) -> tuple[Tensor, Tensor]:
    """Weights of the closed form. Powers of two below the smallest float become zero: less than any rounding error.

    Args:
        target: [B, X] kept row of each dropped row, in the order of merging.
        survivors: W.

    Returns:
        shares [B, X] of the dropped rows and [B, W] of the kept rows, float32; per kept row they sum to one.
    """
    merged = torch.zeros(target.shape[0], survivors, dtype=torch.int64, device=target.device)
    merged.scatter_add_(1, target, torch.ones_like(target))  # m of each kept row
    order = target.argsort(dim=1, stable=True)
    first = merged.cumsum(1) - merged  # where the members of each kept row begin in that order
    place = torch.empty_like(target).scatter_(
        1, order, torch.arange(target.shape[1], device=target.device).expand_as(target)
    )
    later = merged.gather(1, target) - (place - first.gather(1, target))  # m - j + 1, j counted from 1
    return torch.exp2(-later.float()), torch.exp2(-merged.float())


def _count_up(like: Tensor) -> Tensor:
    """0, 1, 2, ... along each row, in the shape of a [B, X] tensor."""
    return torch.arange(like.shape[1], device=like.device).expand_as(like)
