# SPDX-License-Identifier: Apache-2.0
"""EVS (Efficient Video Sampling): keep the first frame, and of the others the tokens that changed most.

Paper: "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference".
The public implementation is the one in vLLM (``--video-pruning-rate``, the share removed). Needs nothing but features.

In plain words, for T frames of N tokens and a keep ratio r:
1. A token's change is one minus the cosine with the token at its position in the previous frame, which may itself have
   been dropped: slow drift is never noticed.
2. The first frame changes more than anything.
3. The max(N, floor(r * T * N)) tokens with the largest change survive, over the whole video; of equals the earlier.
So the first frame is always whole, and a clip of at most 1 / r frames is reduced to it.

Our reading: the formula is tested against a loop written from it, not against the published code. Arithmetic is
float32; the published code works in the model's dtype, where near-equal tokens tie more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.budget import guarded_floor, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep
from vidcomp.methods.blocks.select import keep_only
from vidcomp.methods.blocks.similarity import neighbour_cosine

__all__ = ["Evs"]

_FIRST = 255.0  # the change of the first frame's tokens: above every 1 - cosine


@dataclass(frozen=True)
class Evs(Method):
    """Parameters.

    Attributes:
        first: ``full`` keeps the first frame whole, as published, even when that exceeds the budget; ``budget`` gives
            it an equal share of the budget, evenly spaced, and then exactly ``ceil(r * T * N)`` tokens survive.
    """

    first: str = "full"

    name: ClassVar[str] = "evs"
    summary: ClassVar[str] = "keeps the first frame and the tokens that changed most since the previous frame"
    source: ClassVar[Source] = Source(
        "Efficient Video Sampling", arxiv="2510.14624", code="https://github.com/vllm-project/vllm"
    )
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "keeps the first frame whole"

    def __post_init__(self) -> None:
        if self.first not in ("full", "budget"):
            raise ValueError(f"first must be full or budget, got {self.first!r}")

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """``floor(r * T * N)``, at least the first frame's where it stays whole; else the budget."""
        check_keep(keep)
        tokens = grid[0] * grid[1]
        if self.first == "full":
            return max(tokens, guarded_floor(frames * tokens * keep))
        return token_budget(frames * tokens, keep)

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select by change; features stay as they are."""
        frames, tokens = view.features.shape[:2]
        budget = self.count(frames, view.grid, keep)
        change = torch.full((frames, tokens), _FIRST, device=view.features.device)
        change[1:] = 1 - neighbour_cosine(view.features.detach())
        if self.first == "budget":
            share = max(1, budget // frames)
            change[0] = -1.0
            change[0, (2 * torch.arange(share, device=change.device) + 1) * tokens // (2 * share)] = _FIRST
        order = change.flatten().argsort(descending=True, stable=True)
        return keep_only(order[:budget].sort().values, view.total)
