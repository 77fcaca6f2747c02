# SPDX-License-Identifier: Apache-2.0
"""FitPrune: a fixed number of visual rows leaves at every layer, those that neither text nor video look at.

Paper: "Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models".
Needs: attention of every layer from which rows leave, per head.
In plain words: behind a layer, a row's score is the attention that all visual rows pay to it times the attention that
the rows behind the video pay to it, each the largest over heads; the rows with the smallest scores leave, at old
positions. How many leave where is a recipe that was fitted to LLaVA-1.5-7B (576 rows, 32 layers) for ``ratio`` percent
of the visual rows' arithmetic; here recipes are shares, moved to the model's depth.
Differences: the published code drops between attention and MLP; everything there is row-wise, so dropping before the
next layer is the same. The search that fits recipes to other models is not here. Cost: the attention among visual rows
is computed a second time in these layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, best_rows
from vidcomp.schedules.blocks.ranked import Ranked
from vidcomp.schedules.blocks.scoring import Attention
from vidcomp.schedules.state import Stage

__all__ = ["FitPrune", "both_looked_at", "deleted"]

_ROWS = 576
_RECIPES = {  # percent of the arithmetic -> rows that leave behind each layer
    10: "0 0 1 2 1 0 1 4 5 5 11 4 2 2 0 0 1 1 2 4 2 10 1 1 1 2 1 1 0 1 0 0",
    20: "0 0 3 3 1 1 4 16 14 15 24 4 2 3 2 0 6 0 5 13 4 19 2 1 1 1 1 1 2 1 0 0",
    30: "0 0 7 6 4 5 16 40 24 21 24 4 2 3 4 0 16 0 11 26 6 32 3 1 0 1 2 2 4 0 0 0",
    40: "0 1 21 13 14 11 41 53 29 15 14 5 1 4 5 1 26 1 13 28 6 27 2 1 0 0 1 1 2 0 0 0",
    50: "3 7 49 24 29 17 59 41 26 8 10 6 2 5 7 2 30 3 13 27 5 23 2 1 0 0 1 1 2 0 0 0",
    55: "6 17 69 31 34 19 59 30 23 6 8 7 2 5 8 2 29 4 12 25 4 19 2 1 0 0 1 0 1 0 0 0",
    60: "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0 0",
    70: "48 79 118 41 33 17 36 9 9 2 3 2 1 3 4 8 18 7 8 20 4 13 2 1 0 0 1 0 1 0 0 0",
    80: "128 127 118 35 26 8 13 3 2 1 0 0 0 2 1 8 7 8 5 11 2 6 1 1 0 0 0 1 0 0 0 0",
    90: "262 153 80 19 13 1 2 0 0 0 0 0 0 0 0 1 1 2 1 2 0 1 0 0 0 0 0 1 0 0 0 0",
}


@dataclass(frozen=True)
class FitPrune(Ranked):
    """Drop by the recipe for ``ratio``: 10, 20, 30, 40, 50, 55, 60, 70, 80 or 90 percent."""

    ratio: int = 60

    name: ClassVar[str] = "fitprune"
    summary: ClassVar[str] = "at each layer a fitted number of rows leaves that neither text nor video look at"
    source: ClassVar[Source] = Source("FitPrune", "AAAI 2025", "2409.10197", "https://github.com/ywh187/FitPrune")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if self.ratio not in _RECIPES:
            raise ValueError(f"ratio must be one of {', '.join(map(str, _RECIPES))}, got {self.ratio}")

    def plan(self, depth: int) -> Mapping[int, float]:
        """Layers from which on fewer rows are left."""
        gone = torch.tensor([0, *deleted(self.ratio)]).cumsum(0)
        left = [1 - int(gone[round(layer * (len(gone) - 1) / depth)]) / _ROWS for layer in range(depth)]
        return {layer: left[layer] for layer in range(1, depth) if left[layer] < left[layer - 1]}

    def reduce(self, stage: Stage) -> Cut:
        """Keep the planned number of rows, at least 1."""
        score = both_looked_at(stage.attention(), stage.visual, stage.question)
        count = max(1, self.count(stage.total, self.plan(stage.depth)[stage.layer]))
        return Cut(best_rows(score, count))


def deleted(ratio: int) -> list[int]:
    """Rows that leave behind each of 32 layers, of 576."""
    return [int(count) for count in _RECIPES[ratio].split()]


def both_looked_at(attention: Attention, visual: Tensor, text: Tensor) -> Tensor:
    """Product of what visual rows [B, V] and text rows [B, A] look at, largest over heads: [B, V] float32."""
    return _looked_at(attention, visual, visual) * _looked_at(attention, text, visual)


def _looked_at(attention: Attention, viewers: Tensor, visual: Tensor) -> Tensor:
    """Sum over the viewers [B, Q] of their attention, the largest over heads, to visual rows [B, V]: [B, V]."""
    total = torch.zeros(visual.shape, device=visual.device)
    for _, weights in attention.blocks(viewers):
        total += weights.amax(1).sum(1).gather(1, visual)
    return total
