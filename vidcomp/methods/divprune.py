# SPDX-License-Identifier: Apache-2.0
"""DivPrune: the subset of the video's tokens whose closest pair is as far apart as possible.

Paper: "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models".
Needs nothing but the features.

In plain words: distance is 1 - cosine between tokens of the whole video. Take the token whose nearest neighbour is
farthest, then again and again the token whose smallest distance to the taken ones is largest. Survivors keep the order
of the video.

The published code picks a token twice when only copies are left; here every pick is another token, copies come last, in
the order of the video. Its steps cost k * k * T * N * D; see ``blocks/maxmin.py`` for what they cost here.
Finding the first pick costs up to (T * N)**2 * D on a video in which nothing repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity
from vidcomp.methods.blocks.maxmin import farthest_first
from vidcomp.methods.blocks.select import keep_only

__all__ = ["Divprune"]


@dataclass(frozen=True)
class Divprune(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        official: round to the nearest number instead, as in the published code; still at least one.
    """

    official: bool = False

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "keeps tokens that are far from each other, over the whole video"
    source: ClassVar[Source] = Source("DivPrune", "CVPR 2025", "2503.02175", "https://github.com/vbdi/divprune")
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "takes the same tokens, but rounds their number up"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Pick by max-min distance; at ``keep=1`` every token survives unchanged.

        Raises:
            ValueError: keep outside (0, 1].
        """
        count = token_budget(view.total, keep)
        if self.official:
            count = max(1, round(view.total * keep))
        rows = view.features.detach().reshape(view.total, -1)
        picks = farthest_first(rows, count, shifts=(1, view.features.shape[1]))
        return keep_only(picks.sort().values, view.total)
