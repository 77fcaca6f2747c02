"""AIM, outer stage: pairs of similar tokens of a frame are averaged, again and again, until the budget is met.

Source: "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", ICCV 2025, arXiv 2412.03248,
https://github.com/LaVi-Lab/AIM. Needs nothing but the features.

In plain words, within each frame: tokens at even places look for the most similar token at an odd place; the most
similar pairs merge, a receiver becomes the plain mean of itself and its givers. A round merges at most half of what is
left. What an earlier round merged counts like any other token. The published rounds halve the frame (keep 0.5, 0.25,
0.125 ...); here the last round merges as many pairs as the budget asks for.

Where a round leaves givers unmerged, the published code puts them in front, by falling similarity; here everything
stays in the order of the picture, and ``official=True`` does as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.methods.base import Method, Parity
from vidcomp.methods.bipartite import pair_up
from vidcomp.methods.select import even_budgets
from vidcomp.tokens import Reduction, TokenView

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
    source: ClassVar[str] = "AIM, ICCV 2025, arXiv 2412.03248, https://github.com/LaVi-Lab/AIM"
    inner: ClassVar[str | None] = "aim"
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Merge within each frame.

        Raises:
            ValueError: keep outside (0, 1].
        """
        counts = even_budgets(view, keep)
        features, tokens = view.features.detach(), view.features.shape[1]
        owner = torch.full(counts.shape, -1, device=counts.device)[:, None].repeat(1, tokens)
        weight = torch.zeros(owner.shape, device=counts.device)
        anchor = torch.zeros_like(owner)
        for count in set(counts.tolist()) - {0}:  # two numbers that differ by one
            some = (counts == count).nonzero()[:, 0]
            owner[some], weight[some], anchor[some, :count] = _halved(features[some], count, not self.official)
        first = (counts.cumsum(0) - counts)[:, None]
        used = torch.arange(tokens, device=counts.device) < counts[:, None]
        every = torch.arange(len(counts), device=counts.device)[:, None] * tokens
        assign = torch.where(owner >= 0, owner + first, -1)
        return Reduction((anchor + every)[used], assign.flatten(), weight.flatten(), raster=not self.official)


def _halved(features: Tensor, count: int, raster: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Merge frames [F, N, D] down to ``count`` tokens: owner [F, N], weight [F, N], anchor [F, count]."""
    owner = torch.arange(features.shape[1], device=features.device).repeat(len(features), 1)
    anchor, weight, rows = owner, torch.ones(owner.shape, device=owner.device), features
    while (left := rows.shape[1]) > count:
        step = pair_up(rows, min(left // 2, left - count), raster=raster)
        weight = weight * step.share.gather(1, owner)
        owner, anchor = step.owner.gather(1, owner), anchor.gather(1, step.anchor)
        rows = step.merged(rows) if anchor.shape[1] > count else anchor  # the last round is not compared again
    return owner, weight, anchor
