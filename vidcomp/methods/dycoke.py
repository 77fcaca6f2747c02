# SPDX-License-Identifier: Apache-2.0
"""DyCoke, outer stage: of four frames the first stays whole, the others lose the positions that repeat.

Paper: "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models".
Needs nothing but the features.

In plain words: frames come in groups of four. The second and the fourth are compared with the frame before them, the
third with the first, position by position. Each of the three keeps the positions whose cosine is lowest. The paper
calls it merging; nothing is averaged.

The first frame of a group is always whole, so no less than about a quarter of the tokens survive, whatever ``keep``
says. The published code leaves the third frame of the last group whole, drops a last frame without partner, fails below
five frames, rounds down per frame, and lists the tokens of a thinned frame by rising similarity; ``official=True`` does
the same with its pruning fraction ``(4 - 4 * keep) / 3``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import even_split, guarded_floor, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, check_keep
from vidcomp.methods.blocks.select import keep_marked, keep_only, top_mask
from vidcomp.methods.blocks.similarity import frame_cosine

__all__ = ["Dycoke"]


@dataclass(frozen=True)
class Dycoke(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, but never fewer than the first frame of each group holds.

    Attributes:
        official: tails, rounding and order as in the published code.
    """

    official: bool = False

    name: ClassVar[str] = "dycoke"
    summary: ClassVar[str] = "keeps every fourth frame whole, and of the others what changed; at least a quarter stays"
    source: ClassVar[Source] = Source("DyCoke", "CVPR 2025", "2411.15024", "https://github.com/KD-TAO/DyCoke")
    inner: ClassVar[str | None] = "dycoke"
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "keeps the first of every four frames whole"
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "thins the end of the video like the rest, and meets the budget exactly where it can"

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """The budget, but never fewer than the first frame of each group holds.

        Raises:
            ValueError: as :meth:`__call__`.
        """
        check_keep(keep)
        tokens = grid[0] * grid[1]
        if self.official:
            thinned, paired = _published_frames(frames)
            return len(thinned) * _published_count(tokens, keep) + (paired - len(thinned)) * tokens
        return max(-(-frames // 4) * tokens, token_budget(frames * tokens, keep))

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Thin three of four frames.

        Raises:
            ValueError: keep outside (0, 1], or fewer than five frames with ``official``.
        """
        check_keep(keep)
        frames, tokens = view.features.shape[:2]
        if self.official:
            return _published(view, keep)
        thinned = torch.tensor([frame for frame in range(frames) if frame % 4], dtype=torch.int64)
        counts = torch.full((frames,), tokens)
        spare = self.count(frames, view.grid, keep) - (frames - len(thinned)) * tokens
        if len(thinned):
            counts[thinned] = torch.from_numpy(even_split(spare, len(thinned)))
        kept = top_mask(-_likeness(view.features.detach(), thinned), counts.to(view.features.device))
        return keep_marked(kept)


def _likeness(features: Tensor, thinned: Tensor) -> Tensor:
    """[T, N]: cosine of each token of a thinned frame with the frame it is compared with; elsewhere zero."""
    likeness = torch.zeros(features.shape[:2], device=features.device)
    likeness[thinned] = frame_cosine(features, thinned, thinned - torch.where(thinned % 4 == 2, 2, 1))
    return likeness


def _published_frames(frames: int) -> tuple[list[int], int]:
    """The frames that lose tokens, and how many frames are looked at: a last one without partner is not."""
    if frames < 5:
        raise ValueError(f"the published code needs at least 5 frames, got {frames}; official=False takes any number")
    paired = frames // 2 * 2
    last = (frames - 5) // 4 * 4  # the last group whose third frame is thinned
    return [frame for frame in range(paired) if frame % 2 or (frame % 4 == 2 and frame <= last + 2)], paired


def _published_count(tokens: int, keep: float) -> int:
    """Tokens left of a thinned frame."""
    return max(0, guarded_floor((1 - (4 - 4 * keep) / 3) * tokens))


def _published(view: TokenView, keep: float) -> Reduction:
    frames, tokens = view.features.shape[:2]
    thinned, paired = _published_frames(frames)
    count = _published_count(tokens, keep)
    order = torch.arange(tokens, device=view.features.device).repeat(paired, 1)
    likeness = _likeness(view.features.detach(), torch.tensor(thinned))
    order[thinned] = likeness[thinned].argsort(dim=1, stable=True)
    listed = [order[frame, : count if frame in thinned else tokens] + frame * tokens for frame in range(paired)]
    anchors = torch.cat(listed)
    kept = keep_only(anchors.sort().values, view.total)
    assign = torch.full_like(kept.assign, -1)
    assign[anchors] = torch.arange(anchors.numel(), device=anchors.device)
    return Reduction(anchors, assign, kept.weights, raster=False)
