# SPDX-License-Identifier: Apache-2.0
"""AIM, outer stage: pairs of similar tokens of a frame are averaged, again and again, until the budget is met.

Paper: "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning".
Needs nothing but the features.

In plain words, within each frame: tokens at even places look for the most similar token at an odd place; the most
similar pairs merge, a receiver becomes the plain mean of itself and its givers. A round merges at most half of what is
left. What an earlier round merged counts like any other token. The published rounds halve the frame (keep 0.5, 0.25,
0.125 ...); here the last round merges as many pairs as the budget asks for.

A first round compares N / 2 with N / 2 tokens of every frame, T * N * N * D / 4 products, computed in float64 so that
ties are ties; every later round costs a quarter of the one before.

Where a round leaves givers unmerged, the published code puts them in front, by falling similarity; here everything
stays in the order of the picture, and ``official=True`` does as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity
from vidcomp.methods.blocks.bipartite import Merging, pair_up
from vidcomp.methods.blocks.select import even_budgets

__all__ = ["Aim"]


@dataclass(frozen=True)
class Aim(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, spread evenly over the frames.

    Attributes:
        official: order of survivors as in the published code.
    """

    official: bool = False

    name: ClassVar[str] = "aim"
    summary: ClassVar[str] = "averages the most similar pairs of each frame, round after round"
    source: ClassVar[Source] = Source("AIM", "ICCV 2025", "2412.03248", "https://github.com/LaVi-Lab/AIM")
    inner: ClassVar[str | None] = "aim"
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "keeps survivors in the order of the picture, and meets the budget exactly"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Merge within each frame.

        Raises:
            ValueError: keep outside (0, 1].
        """
        counts = even_budgets(view, keep)
        features, tokens = view.features.detach(), view.features.shape[1]
        raster = not self.official
        most = max(1, int(counts.max()))
        owner, weight, anchor = _merged(features, counts.clamp(min=1), most, raster)
        first = (counts.cumsum(0) - counts)[:, None]
        used = torch.arange(most, device=counts.device) < counts[:, None]
        every = torch.arange(len(counts), device=counts.device)[:, None] * tokens
        alive = counts[:, None] > 0
        assign, share = torch.where(alive, owner + first, -1), weight.where(alive, 0.0)
        return Reduction((anchor + every)[used], assign.flatten(), share.flatten(), raster=raster)


def _merged(features: Tensor, counts: Tensor, most: int, raster: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Merge frames [T, N, D] down to ``counts`` [T] tokens, ``most`` or one less.

    Returns:
        Owner [T, N], weight [T, N], and anchor [T, most], of which a frame uses the first ones.
    """
    owner = torch.arange(features.shape[1], device=features.device).repeat(len(features), 1)
    anchor, weight, rows = owner, torch.ones(owner.shape, device=owner.device), features
    while (left := rows.shape[1]) > most and left - left // 2 >= most:  # rounds that are the same for all frames
        step = pair_up(rows, left // 2, raster=raster)
        owner, weight, anchor = _follow(step, owner, weight, anchor)
        rows = step.merged(rows)
    final = torch.zeros(len(features), most, dtype=torch.int64, device=owner.device)
    for count in set(counts.tolist()):
        some = (counts == count).nonzero()[:, 0]
        step = pair_up(rows[some] if left > count else rows[some, :, :0], left - count, raster=raster)
        owner[some], weight[some], final[some, :count] = _follow(step, owner[some], weight[some], anchor[some])
    return owner, weight, final


def _follow(step: Merging, owner: Tensor, weight: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Owners, weights and anchors after one more step."""
    return step.owner.gather(1, owner), weight * step.share.gather(1, owner), anchor.gather(1, step.anchor)
