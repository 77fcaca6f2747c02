# SPDX-License-Identifier: Apache-2.0
"""VScan, outer stage: half of the tokens from a local look in a shallow tower layer, half from a global one in a deep
layer.

Paper: "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models".
Needs: cls_by_layer (attention
received, in towers without a class token).

In plain words, for a budget of b tokens in a frame:
1. Local: cut the grid into windows; floor(b * local) tokens, the same number in every window, those with the most
   attention of the class token in a shallow layer (layer 5 of 24).
2. Global: of the others the tokens with the most attention in the last used layer, until there are b.
3. Every dropped token is averaged into the kept token of its frame with the largest cosine.

Our reading: what does not divide evenly among the windows goes to the windows with the best next token (the published
code drops it). The source treats one image; here the budget is spread evenly over the frames, and a frame that gets
none of it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods.base import Method, check_keep, signal, tower_layer
from vidcomp.methods.blocks.cosine import nearest_kept
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import even_budgets, top_mask

__all__ = ["Vscan"]

_SHALLOW = 5 / 24  # relative depth of the published layer


@dataclass(frozen=True)
class Vscan(Method):
    """Parameters.

    Attributes:
        local: share of the tokens from the local look, in [0, 1].
        windows: windows per side of the grid.
        layer: the shallow layer, 0-based; None is the published relative depth.
    """

    local: float = 0.5
    windows: int = 4
    layer: int | None = None

    name: ClassVar[str] = "vscan"
    summary: ClassVar[str] = "half of the tokens per window by a shallow layer, half by the last; drops are averaged in"
    source: ClassVar[Source] = Source(
        "VScan", "TMLR 2026", "2505.22654", "https://github.com/Tencent/SelfEvolvingAgent", note="in its folder VScan/"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"cls_by_layer"})
    inner: ClassVar[str | None] = "vscan"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.local <= 1:
            raise ValueError(f"local must be in [0, 1], got {self.local}")
        if not isinstance(self.windows, int) or self.windows < 1:
            raise ValueError(f"windows must be a whole number of at least 1, got {self.windows!r}")
        if self.layer is not None and (not isinstance(self.layer, int) or self.layer < 0):
            raise ValueError(f"layer must be a layer number of at least 0, got {self.layer!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``ceil(keep * T * N)`` tokens and average the others into them."""
        check_keep(keep)
        attention = signal(view, "cls_by_layer", self.name).float()  # [T, N, L]
        depth = attention.shape[2]
        layer = min(depth - 1, round(_SHALLOW * depth)) if self.layer is None else self.layer
        shallow = attention[..., tower_layer(self.name, "layer", layer, depth)]
        budgets = even_budgets(view, keep)
        near = top_mask(window_ranking(shallow, view.grid, self.windows), (budgets * self.local).long())
        kept = near | top_mask(attention[..., -1].masked_fill(near, -torch.inf), budgets - near.sum(dim=1))
        frames = tuple(Span(frame, frame) for frame in range(len(kept)))
        return mean_of_members(nearest_kept(view.features.detach(), kept, frames))


def window_ranking(scores: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Scores that rank the best token of every window first, by score, then the second best of every window, and so on.

    Args:
        scores: [T, N].
        grid: (H, W); side: windows per side, as equal as the grid allows.

    Returns:
        [T, N] float32, larger is earlier; all values of a row differ.
    """
    height, width = grid
    row = torch.arange(height, device=scores.device) * min(side, height) // height
    column = torch.arange(width, device=scores.device) * min(side, width) // width
    window = (row[:, None] * side + column).flatten()  # [N]
    order = scores.argsort(dim=1, descending=True, stable=True)  # [T, N], best first
    by_window = window[order].argsort(dim=1, stable=True)  # the same, window after window
    sizes = torch.bincount(window, minlength=side * side)
    start = (sizes.cumsum(0) - sizes)[window[order].gather(1, by_window)]
    place = torch.arange(scores.shape[1], device=scores.device) - start  # rank within the window
    rank = torch.empty_like(place).scatter_(1, by_window, place)  # of the tokens in ``order``
    final = order.gather(1, rank.argsort(dim=1, stable=True))
    every = torch.arange(scores.shape[1], 0, -1, device=scores.device, dtype=torch.float32).expand_as(scores)
    return torch.empty_like(scores).scatter_(1, final, every)
