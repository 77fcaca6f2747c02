# SPDX-License-Identifier: Apache-2.0
"""G-Prune: tokens into which most flows on a graph of similar tokens.

Needs nothing but the features.

In plain words: tokens are nodes, cosines of at least ``similarity`` are edges. Every token begins with its length; in
each of ``steps`` steps it shares what it has among its neighbours and itself, by a softmax of the cosines over
``temperature``. The score of a token is what it holds in the end, divided by the number of its neighbours. The largest
scores survive, in raster order. A token without neighbours keeps its length, so outliers of great length stay.

The published code treats one image and rounds the budget down. Here every frame is a graph of its own with its even
share of the budget; ``group=video`` makes one graph of the whole video, whose cost grows with the square of its tokens,
and in which a still position has many neighbours and so a low score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, check_keep, exact_unless
from vidcomp.methods.blocks.graph_flow import gathered_norms
from vidcomp.methods.blocks.select import even_budgets, keep_marked, top_mask

__all__ = ["Gprune"]


@dataclass(frozen=True)
class Gprune(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        similarity: cosine from which on two tokens are neighbours.
        temperature: of the softmax over neighbours, above 0.
        steps: how often tokens share what they have, at least 1.
        group: ``frame`` or ``video``, what a graph is made of.
        official: round down per graph as in the published code, but to no less than one token.
    """

    similarity: float = 0.5
    temperature: float = 0.03
    steps: int = 5
    group: str = "frame"
    official: bool = False

    name: ClassVar[str] = "gprune"
    summary: ClassVar[str] = "keeps tokens into which most flows on a graph of similar tokens, frame by frame"
    source: ClassVar[Source] = Source("G-Prune", "AAAI 2025", "2501.02268", "https://github.com/jytmelon/G-Prune")
    exact: ClassVar[bool] = exact_unless("official")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        if self.group not in ("frame", "video"):
            raise ValueError(f"group must be frame or video, got {self.group!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the tokens with the largest scores."""
        check_keep(keep)
        features = view.features.detach()
        groups = features if self.group == "frame" else features.reshape(1, view.total, -1)
        flows = [gathered_norms(rows, self.similarity, self.temperature, self.steps)[0] for rows in groups]
        counts = even_budgets(view, keep)
        if self.group == "video":
            counts = counts.new_tensor([token_budget(view.total, keep)])
        if self.official:
            counts = torch.full_like(counts, max(1, int(keep * groups.shape[1])))
        return keep_marked(top_mask(torch.stack(flows), counts).view(features.shape[:2]))
