# SPDX-License-Identifier: Apache-2.0
"""MMTok: chosen tokens must cover the words of the question and the picture at once.

Paper: "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs".
Needs: the question's embeddings, and the tower's output before the projector.

In plain words, for m words and n = T * N tokens:
1. Each word spreads 1 / m over all tokens by a softmax of its cosines with their features at temperature ``words``.
2. Each token spreads ``alpha`` / n over the tokens of its window by a softmax of cosines of encoder features at
   temperature ``picture``.
3. Greedily choose the token that adds most to the sum, over words and tokens, of the largest share that a chosen
   token holds.
Survivors are in raster order.

Our reading: the published code treats one image. For a video a token covers those of its ``window`` frames, the words
are common to all, and one budget serves the whole video. Words are the question's tokens, all of them: the published
code leaves out a list of English function words. No question (a caption) means that only the picture is covered.
Cost: memory T * N times the tokens of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.equal import first_equal, first_of_same
from vidcomp.methods.blocks.facility import Coverage, facility_location
from vidcomp.methods.blocks.select import keep_only

__all__ = ["Mmtok", "picture_coverage", "word_coverage"]


@dataclass(frozen=True)
class Mmtok(Method):
    """Parameters.

    Attributes:
        alpha: weight of covering the picture against covering the words.
        words: temperature for words (0.02 in the published core, 0.01 in its Qwen form).
        picture: temperature for the picture.
        window: frames whose tokens cover each other.
    """

    alpha: float = 0.5
    words: float = 0.02
    picture: float = 0.2
    window: int = 8

    name: ClassVar[str] = "mmtok"
    summary: ClassVar[str] = "chooses tokens that cover the question's words and the picture at once"
    source: ClassVar[Source] = Source("MMTok", "ICLR 2026", "2508.18264", "https://github.com/Ironieser/MMTok")
    needs: ClassVar[frozenset[str]] = frozenset({"query", "encoder_features"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")
        for name in ("words", "picture"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be a whole number of at least 1, got {self.window!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``ceil(keep * T * N)`` tokens."""
        budget = token_budget(view.total, keep)
        query, encoded = signal(view, "query", self.name), signal(view, "encoder_features", self.name)
        words = word_coverage(view.features.detach().reshape(view.total, -1), query, self.words)
        picture = picture_coverage(encoded, self.window, self.picture) * self.alpha
        return keep_only(facility_location(Coverage(words, picture), budget).sort().values, view.total)


def word_coverage(rows: Tensor, query: Tensor, temperature: float) -> Tensor:
    """Step 1 of the module: rows [R, D] and words [m, D] to [R, m] float32; equal rows get equal shares."""
    words = unit_rows(query).T
    cosine = torch.cat([unit_rows(part) @ words for part in torch.split(rows, 1024)])[first_equal(rows)]
    return (cosine / temperature).softmax(dim=0) / max(1, len(query))


def picture_coverage(encoded: Tensor, window: int, temperature: float) -> Tensor:
    """Step 2 of the module, without its weight: [T, N, C] to [G, W, W] float32, G windows of at most W tokens.

    Entry [g, j, r] is the share of token r that lies on token j; padding at the end of the last window is zero.
    """
    frames, tokens, width = encoded.shape
    window = min(window, frames)
    size = window * tokens
    label = first_equal(encoded.reshape(-1, width))
    table = torch.zeros(-(-frames // window), size, size, device=encoded.device)
    for group, low in enumerate(range(0, frames, window)):
        unit = unit_rows(encoded[low : low + window].flatten(0, 1))
        first = first_of_same(label[low * tokens : low * tokens + len(unit)])
        cosine = (unit @ unit.T)[first][:, first] / temperature
        table[group] = F.pad(cosine.softmax(dim=0), (0, size - len(unit), 0, size - len(unit)))
    return table / (frames * tokens)
