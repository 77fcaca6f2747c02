# SPDX-License-Identifier: Apache-2.0
"""FoPru (focal pruning): keep the patches, or the rows of patches, that the vision tower attends to most.

Paper: "FoPru: Focal Pruning for Efficient Large Vision-Language Models".
Needs: salience.

In plain words, per frame: of attention received (mean over queries) and attention given (mean over keys) the one with
the larger variance ranks the patches. Given attention is the same for every patch, since softmax rows sum to one, so
it is always the received one. ``rank`` keeps the best patches; ``rows`` sums over the rows of the grid and keeps
whole rows.

Our reading: no code of the paper was at hand. The source treats one image; here the budget is spread evenly over the
frames, or the number of rows, each frame ranking its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.budget import even_split, guarded_floor, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, signal
from vidcomp.methods.blocks.select import even_budgets, keep_marked, top_mask

__all__ = ["Fopru"]


@dataclass(frozen=True)
class Fopru(Method):
    """Parameters.

    Attributes:
        mode: ``rank`` keeps exactly ``ceil(r * T * N)`` tokens, ``rows`` keeps ``floor(r * T * H)`` rows of the grid,
            at least one.
    """

    mode: str = "rank"

    name: ClassVar[str] = "fopru"
    summary: ClassVar[str] = "keeps the patches, or whole rows of patches, that receive the most attention"
    source: ClassVar[Source] = Source("FoPru", arxiv="2411.14164")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mode not in ("rank", "rows"):
            raise ValueError(f"mode must be rank or rows, got {self.mode!r}")

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """The budget, or whole rows of the grid: ``floor(keep * T * H)``, at least one."""
        check_keep(keep)
        if self.mode == "rank":
            return token_budget(frames * grid[0] * grid[1], keep)
        return max(1, guarded_floor(frames * grid[0] * keep)) * grid[1]

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select by salience; features stay as they are."""
        scores = signal(view, "salience", self.name).float()
        frames, (height, width) = scores.shape[0], view.grid
        if self.mode == "rank":
            return keep_marked(top_mask(scores, even_budgets(view, keep)))
        rows = torch.from_numpy(even_split(self.count(frames, view.grid, keep) // width, frames))
        chosen = top_mask(scores.reshape(frames, height, width).sum(dim=2), rows.to(scores.device))
        return keep_marked(torch.repeat_interleave(chosen, width, dim=1))
