# SPDX-License-Identifier: Apache-2.0
"""Bipartite merging: tokens at even places join their most similar token at an odd place, the best pairs first.

Source: "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461; the step of ToMe, Turbo and AIM. Ties go to
the lower index.

Dimension letters: G groups of P places each, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.core.tokens import merge_rows
from vidcomp.methods.blocks.similarity import block_bytes, cosines

__all__ = ["Merging", "best_partners", "pair_up"]


@dataclass(frozen=True)
class Merging:
    """One step.

    Attributes:
        owner: [G, P] int64, the new place (0..left - 1) that each old place goes to.
        share: [G, P] float32, its weight there; those of one new place sum to one.
        anchor: [G, left] int64, the old place that each new place stands at.
    """

    owner: Tensor
    share: Tensor
    anchor: Tensor

    def merged(self, rows: Tensor) -> Tensor:
        """Merge the rows [G, P, D] into [G, left, D] float32."""
        groups, left = self.anchor.shape
        owner = self.owner + torch.arange(groups, device=rows.device)[:, None] * left
        flat = merge_rows(rows.flatten(0, 1), owner.flatten(), self.share.flatten(), groups * left)
        return flat.view(groups, left, -1)


def best_partners(metric: Tensor) -> tuple[Tensor, Tensor]:
    """For every even place the most similar odd one.

    Args:
        metric: [G, P, D], P at least 2.

    Returns:
        Cosines [G, ceil(P / 2)] float32, and the odd places counted among themselves, [G, ceil(P / 2)] int64.
    """
    step = max(1, block_bytes(metric.device) // (8 * metric.shape[1] * metric.shape[2]))
    found = []
    for part in torch.split(metric, step):
        found.append(cosines(part[:, ::2], part[:, 1::2]).max(dim=2))
    return torch.cat([pair.values for pair in found]), torch.cat([pair.indices for pair in found])


def pair_up(
    metric: Tensor, merges: int, *, sizes: Tensor | None = None, penalty: Tensor | None = None, raster: bool = True
) -> Merging:
    """Merge the ``merges`` best pairs of every group.

    Args:
        metric: [G, P, D], what is compared.
        merges: from 0 to floor(P / 2).
        sizes: [G, P], weight of each place in a mean; all equal when None.
        penalty: [G, ceil(P / 2)], taken off the cosine of even places; infinite for one that must stay.
        raster: whether the places left keep their order; else the even ones that did not merge come first, by falling
            similarity, then the odd ones, as in the published code.

    Returns:
        The step; P - merges places are left.
    """
    groups, size = metric.shape[:2]
    evens = (size + 1) // 2
    every = torch.arange(size, device=metric.device).expand(groups, size)
    if merges == 0:
        return Merging(every, torch.ones(groups, size, device=metric.device), every)
    value, partner = best_partners(metric)
    order = (value if penalty is None else value - penalty).argsort(dim=1, descending=True, stable=True)
    joins = order[:, :merges]  # even places that merge, counted among themselves
    into = every.scatter(1, 2 * joins, 2 * partner.gather(1, joins) + 1)
    stays = torch.ones_like(into, dtype=torch.bool).scatter_(1, 2 * joins, False)
    if raster:
        anchor = every[stays].view(groups, size - merges)
    else:
        anchor = torch.cat([2 * order[:, merges:], every[:, 2 * torch.arange(size - evens) + 1]], dim=1)
    place = torch.zeros_like(into).scatter_(1, anchor, every[:, : size - merges])
    weight = torch.ones(groups, size, device=metric.device) if sizes is None else sizes.float()
    total = torch.zeros_like(weight).scatter_add_(1, into, weight)
    return Merging(place.gather(1, into), weight / total.gather(1, into), anchor)
