# SPDX-License-Identifier: Apache-2.0
"""KFFocus, training-free parts: key frames keep a finer grid than the others, salient tokens stay as they are.

Paper: "KFFocus: Highlighting Keyframes for Enhanced Video Understanding".
Needs: salience. The
sampler that picks frames from the codec's key frames is :func:`vidcomp.video.keyframes.key_times`.

In plain words: key frames are averaged over d x d cells of the grid, the others over 2d x 2d cells; the most salient
tokens of every frame are left out of the averages and kept unchanged. A cell stands at its first token.

Our reading: no code is public, and only the abstract and constants quoted by others were at hand (d of 2 and 4, per
side or per count is not said). Here d is the smallest for which the cells take at most the share 1 - ``alpha`` of the
budget ceil(r * T * N); salient tokens, spread evenly over the frames, take what is left. Key frames are those that
differ unusually much from the frame before, because a view does not know how its frames were coded. Fewer tokens than
asked for survive where cells are left empty, more when the budget is below one token per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import even_split, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView, identity
from vidcomp.methods.base import Method, signal
from vidcomp.methods.blocks.deviations import standing_out
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import neighbour_cosine

__all__ = ["Kffocus", "cells_of"]


@dataclass(frozen=True)
class Kffocus(Method):
    """Parameters.

    Attributes:
        alpha: least share of the budget for salient tokens, in [0, 1).
    """

    alpha: float = 0.05

    name: ClassVar[str] = "kffocus"
    summary: ClassVar[str] = "averages over cells, finer in key frames, and keeps the most salient tokens as they are"
    source: ClassVar[Source] = Source("KFFocus", arxiv="2508.08989")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    rule: ClassVar[str] = "averages over cells, of which some are empty"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Average and keep; close to ``ceil(keep * T * N)`` tokens survive."""
        budget = token_budget(view.total, keep)
        salience = signal(view, "salience", self.name).float()
        features = view.features.detach()
        frames, tokens = salience.shape
        if budget == view.total:
            return identity(frames, tokens, features.device)
        change = 1 - neighbour_cosine(features).mean(dim=1)
        key = torch.from_numpy(standing_out(change.cpu().numpy())).to(features.device)
        cell = self._cells(view.grid, key, budget)  # [T, N]
        count = torch.zeros_like(cell).scatter_add_(1, cell, torch.ones_like(cell))
        mergeable = count.gather(1, cell) > 1
        spare = max(0, budget - int((count > 0).sum()))
        most = torch.from_numpy(even_split(spare, frames)).to(features.device)
        kept = top_mask(salience.masked_fill(~mergeable, -torch.inf), most) & mergeable
        return mean_of_members(_anchors(cell, kept))

    def _cells(self, grid: tuple[int, int], key: Tensor, budget: int) -> Tensor:
        """Number of each token's cell: [T, N]."""
        keys = int(key.sum())
        for side in range(1, max(grid) + 1):
            fine, coarse = cells_of(grid, side), cells_of(grid, 2 * side)
            used = keys * int(fine.max() + 1) + (key.numel() - keys) * int(coarse.max() + 1)
            if used <= budget * (1 - self.alpha):
                break
        return torch.where(key[:, None], fine.to(key.device), coarse.to(key.device))


def cells_of(grid: tuple[int, int], side: int) -> Tensor:
    """Number of the cell of ``side`` x ``side`` positions that each of N positions lies in: [N] int64."""
    row, column = torch.arange(grid[0]) // side, torch.arange(grid[1]) // side
    return (row[:, None] * (int(column[-1]) + 1) + column).flatten()


def _anchors(cell: Tensor, kept: Tensor) -> Tensor:
    """[T * N]: a kept token's own index, the first not kept token of its cell for the others."""
    frames, tokens = cell.shape
    index = torch.arange(frames * tokens, device=cell.device).reshape(frames, tokens)
    free = index.masked_fill(kept, frames * tokens)
    first = torch.full_like(index, frames * tokens).scatter_reduce(1, cell, free, "amin")
    return torch.where(kept, index, first.gather(1, cell)).flatten()
