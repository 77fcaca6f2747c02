# SPDX-License-Identifier: Apache-2.0
"""FrameFusion, outer form: tokens join the same position of the previous frame while they repeat it.

Paper: "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language Models".
Needs: salience.

In plain words: every token is compared (cosine) with the one at its position in the frame before. Those with a
similarity of at least the threshold merge; if they are more than the budget asks for, only the most similar do. A run
of merging tokens and the token before it become their plain mean, at the place of the earliest. If too many are left,
the most salient survive.

This is the published method's first merge, on what enters the language model. The published method goes on layer by
layer and prunes once by attention inside the model (``--inner framefusion``); here the tower's attention does that,
which is our own reading. Where the budget asks for more than all pairs, the published code merges into another
position; here only pairs of one position merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import frame_cosine

__all__ = ["Framefusion", "repeats"]


@dataclass(frozen=True)
class Framefusion(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        threshold: cosine from which a token repeats the one before it.
    """

    threshold: float = 0.6

    name: ClassVar[str] = "framefusion"
    summary: ClassVar[str] = "averages tokens that repeat the previous frame, then keeps the most salient"
    source: ClassVar[Source] = Source(
        "FrameFusion", "ICCV 2025", "2501.01986", "https://github.com/thu-nics/FrameFusion"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    inner: ClassVar[str | None] = "framefusion"
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"
    differs: ClassVar[str] = "is the first of the published merges; what is still too many goes by salience"

    def __post_init__(self) -> None:
        if self.threshold != self.threshold:
            raise ValueError("threshold must be a number")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Merge over time, then select.

        Raises:
            ValueError: keep outside (0, 1], or a view without salience.
        """
        budget = token_budget(view.total, keep)
        salience = signal(view, "salience", self.name).float()
        merges = repeats(view.features.detach(), view.total - budget, self.threshold)
        ranking = salience.nan_to_num(neginf=torch.finfo(torch.float32).min).masked_fill(merges, -torch.inf)
        kept = top_mask(ranking.reshape(1, -1), torch.tensor([budget], device=merges.device))[0]
        frames, tokens = merges.shape
        frame = torch.arange(frames, device=merges.device)[:, None]
        start = torch.where(merges, 0, frame).cummax(dim=0).values  # the frame that each token's run begins in
        anchor = (start * tokens + torch.arange(tokens, device=merges.device)).flatten()
        return mean_of_members(torch.where(kept[anchor], anchor, -1))


def repeats(features: Tensor, wanted: int, threshold: float) -> Tensor:
    """Mark the tokens of features [T, N, D] that join the one before them, at most ``wanted``: [T, N] bool."""
    frames, tokens = features.shape[:2]
    merges = torch.zeros(frames, tokens, dtype=torch.bool, device=features.device)
    later = torch.arange(1, frames)
    similar = frame_cosine(features, later, later - 1)
    count = (similar >= threshold).sum().clamp(max=wanted).reshape(1)
    merges[1:] = top_mask(similar.reshape(1, -1), count).view_as(similar)
    return merges
