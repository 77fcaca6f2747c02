# SPDX-License-Identifier: Apache-2.0
"""V-CAST: more tokens where the video's path bends, and in each frame the tokens that differ from it.

Needs nothing but features.

In plain words, for T frames of N tokens:
1. f is the mean token of each frame, scaled to length one. Between the steps into and out of a frame the path bends by
   one minus the cosine of the two steps; the first and the last frame count as a bend of one.
2. Every frame gets one token; the rest of max(T, round(r * T * N)) is shared by softmax(bend / 0.7), at most N a frame.
3. A token scores one minus its cosine with f, plus its length brought to 0..1 within the frame. The best survive.

Our reading: the public code is for Qwen3-VL only, and no outputs of it were at hand. It gives all tokens that
rounding leaves over to one frame; here each goes to the next largest remainder, as the text means. A clip of one
frame is reduced too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import allocate
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import keep_marked, top_mask

__all__ = ["VCast", "bends"]


@dataclass(frozen=True)
class VCast(Method):
    """Parameters.

    Attributes:
        temperature: of the softmax over bends; larger spreads the budget more evenly.

    Exactly max(T, round(keep * T * N)) tokens survive, at least one in every frame.
    """

    temperature: float = 0.7

    name: ClassVar[str] = "v_cast"
    summary: ClassVar[str] = "gives frames where the video turns more tokens, keeps those unlike their frame"
    source: ClassVar[Source] = Source("V-CAST", arxiv="2603.27650", code="https://github.com/xinyouu/V-CAST")
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "rounds the budget, and keeps a token of every frame"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """``round(keep * T * N)``, at least one per frame."""
        check_keep(keep)
        return max(frames, round(frames * grid[0] * grid[1] * keep))

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select; features stay as they are."""
        features = view.features.detach()
        frames, tokens = features.shape[:2]
        middle = unit_rows(features.mean(dim=1, dtype=torch.float32))  # [T, D]
        shares = (bends(middle) / self.temperature).cpu().double().softmax(dim=0)
        counts = allocate(shares.numpy(), self.count(frames, view.grid, keep), [tokens] * frames, least=1)
        scores = _scores(features, middle)
        return keep_marked(top_mask(scores, torch.from_numpy(counts).to(scores.device)))


def bends(path: Tensor) -> Tensor:
    """[T, D] to [T]: one minus the cosine of the steps into and out of each point; one at both ends."""
    step = unit_rows(path.diff(dim=0))
    inner = 1 - (step[:-1] * step[1:]).sum(dim=1)
    return torch.cat([inner.new_ones(min(1, len(path))), inner, inner.new_ones(min(1, len(path) - 1))])


def _scores(features: Tensor, middle: Tensor) -> Tensor:
    """Distance of each token from its frame's direction, plus its relative length: [T, N] float32."""
    cosine, length = torch.empty(2, *features.shape[:2], device=features.device)
    for frame, centre in enumerate(middle):  # one at a time: no float32 copy of the video
        rows = features[frame].float()
        length[frame] = rows.square().sum(dim=1).sqrt()
        cosine[frame] = (rows * centre).sum(dim=1) / length[frame].clamp(min=1e-20)
    low, high = length.aminmax(dim=1, keepdim=True)
    scores: Tensor = 1 - cosine + (length - low) / (high - low).clamp(min=1e-12)
    return scores
