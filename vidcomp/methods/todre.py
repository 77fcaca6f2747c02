# SPDX-License-Identifier: Apache-2.0
"""ToDRE, stage 1: again and again the token least similar, in sum, to those already chosen.

Needs: the class token's attention (attention received,
in towers without one).

In plain words, over all tokens of the video together: begin with the token the tower attends to most. Then choose the
token whose cosines with all chosen ones have the smallest sum, until the budget is reached (max-sum dispersion).
Survivors are in raster order.

Our reading: the order of the output and the rounding of the budget are not stated. Cost: T * N products for each chosen
token, which are bound by the speed of memory: the slowest method here on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.select import keep_only
from vidcomp.methods.blocks.similarity import widest_float

__all__ = ["Todre", "dispersed"]

_ROUNDING = 1e-4  # more than float32 products of rows of length one may be wrong in sum


@dataclass(frozen=True)
class Todre(Method):
    """No parameters."""

    name: ClassVar[str] = "todre"
    summary: ClassVar[str] = "chooses the token least similar, in sum, to those already chosen, over the whole video"
    source: ClassVar[Source] = Source("ToDRE", arxiv="2505.18757")
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention"})
    exact: ClassVar[bool] = True
    inner: ClassVar[str | None] = "todre"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``ceil(keep * T * N)`` tokens."""
        budget = token_budget(view.total, keep)
        attention = signal(view, "cls_attention", self.name).float().nan_to_num(nan=-torch.inf)
        picks = dispersed(view.features.detach().reshape(view.total, -1), budget, int(attention.flatten().argmax()))
        return keep_only(picks.sort().values, view.total)


def dispersed(rows: Tensor, count: int, pivot: int) -> Tensor:
    """Max-sum dispersion.

    Copies of a token share one sum, so they are counted, not compared. Sums come from float32 products; those too
    close to the smallest to be distinguished are computed once more in float64, so the choice does not depend on
    rounding.

    Args:
        rows: [R, D] any float dtype; count: from 1 to R; pivot: the first pick.

    Returns:
        [count] int64 different indices; of equals the lower ones.
    """
    first = first_equal(rows)
    kinds, kind = torch.unique(first, return_inverse=True)
    unit, wide = unit_rows(rows[kinds]), widest_float(rows.device)
    left = torch.bincount(kind)
    taken = torch.zeros_like(left)
    total = torch.zeros(len(kinds), dtype=wide, device=rows.device)
    chosen = torch.zeros(unit.shape[1], dtype=wide, device=rows.device)  # sum of the chosen ones
    best = kind[pivot]
    for _ in range(count - 1):
        taken[best] += 1
        chosen += unit[best]
        total += unit @ unit[best]
        open_ = total.masked_fill(taken == left, torch.inf)
        close = (open_ <= open_.min() + _ROUNDING).nonzero()[:, 0]
        best = close[(unit[close].to(wide) @ chosen).argmin()] if close.numel() > 1 else close[0]
    taken[best] += 1
    return _first_copies(kind, taken, pivot)


def _first_copies(kind: Tensor, taken: Tensor, pivot: int) -> Tensor:
    """The first ``taken[k]`` rows of each kind k, the pivot before the others of its kind; kind: [R]."""
    rank = torch.arange(kind.numel(), device=kind.device)
    rank[pivot] = -1
    order = rank.argsort(stable=True)
    order = order[kind[order].argsort(stable=True)]  # kind after kind, each by rank
    sizes = torch.bincount(kind)
    place = torch.arange(kind.numel(), device=kind.device) - (sizes.cumsum(0) - sizes)[kind[order]]
    return order[place < taken[kind[order]]]
