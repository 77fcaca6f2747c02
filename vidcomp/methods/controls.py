# SPDX-License-Identifier: Apache-2.0
"""Controls that every comparison needs: no reduction, random or evenly spaced tokens, fewer frames, lower resolution.

A method that does not beat these at equal budget has shown nothing; at high drop rates random is hard to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView, identity
from vidcomp.methods.base import Method, Parity, check_seed
from vidcomp.methods.blocks.select import keep_only

__all__ = ["FewerFrames", "Keep", "Pool", "Random", "Uniform"]


@dataclass(frozen=True)
class Keep(Method):
    """Every token, unchanged, whatever ``keep`` says."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no reduction: every token, unchanged, whatever keep says"
    source: ClassVar[Source] = Source("control of this project")
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "keeps every token"
    parity: ClassVar[Parity] = "control"

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """All of them."""
        return frames * grid[0] * grid[1]

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """All T * N tokens in raster order."""
        frames, tokens = view.features.shape[:2]
        return identity(frames, tokens, view.features.device)


@dataclass(frozen=True)
class Random(Method):
    """A random set of exactly ``token_budget(T * N, keep)`` tokens, in raster order.

    Drawn on the CPU, so that one seed gives one set on every device. Report the mean over at least three seeds.
    """

    seed: int | None = None

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "control: a random set of tokens, exact budget, one seed gives one set"
    source: ClassVar[Source] = Source(
        "control of this project", note="UniPruneBench, arXiv 2511.02650, shows how strong it is"
    )
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "control"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Draw without replacement from all T * N tokens."""
        draw = torch.randperm(view.total, generator=torch.Generator().manual_seed(self.seed or 0))
        anchors = draw[: token_budget(view.total, keep)].sort().values
        return keep_only(anchors.to(view.features.device), view.total)


@dataclass(frozen=True)
class Uniform(Method):
    """Evenly spaced tokens over the raster of the whole video.

    With budget k = ``token_budget(T * N, keep)`` survivor i stands at the middle of the i-th of k equal parts of the
    raster: ``floor((i + 1/2) * T * N / k)``, in integers, so always k different tokens.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "control: tokens at equal distances over the raster of all frames, exact budget"
    source: ClassVar[Source] = Source("control of this project")
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "control"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Take the token in the middle of each part."""
        budget = token_budget(view.total, keep)
        middle = 2 * torch.arange(budget, device=view.features.device) + 1
        return keep_only(middle * view.total // (2 * budget), view.total)


@dataclass(frozen=True)
class FewerFrames(Method):
    """All tokens of evenly spaced frames: what sampling fewer frames would have given.

    ``max(1, floor(k / N))`` frames for a budget of k tokens, first and last among them when there are two or more.
    """

    name: ClassVar[str] = "frames"
    summary: ClassVar[str] = "control: fewer frames, each whole; at most the budget, at least one frame"
    source: ClassVar[Source] = Source("control of this project")
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "keeps whole frames"
    parity: ClassVar[Parity] = "control"

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """Those of as many whole frames as the budget holds, at least one."""
        tokens = grid[0] * grid[1]
        return max(1, token_budget(frames * tokens, keep) // tokens) * tokens

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Drop the other frames."""
        frames, tokens = view.features.shape[:2]
        count = self.count(frames, view.grid, keep) // tokens
        chosen = torch.linspace(0, frames - 1, count, device=view.features.device).round().long()
        every = torch.arange(tokens, device=view.features.device)
        return keep_only((chosen[:, None] * tokens + every).flatten(), view.total)


@dataclass(frozen=True)
class Pool(Method):
    """Every frame at a lower resolution: means over a coarser grid of at most k / T cells for a budget of k tokens.

    The coarser grid (h, w) is the one with the most cells, then the squarest; at least one cell per frame. A token
    belongs to the cell under its top left corner, and the first token of a cell is its anchor.
    """

    name: ClassVar[str] = "pool"
    summary: ClassVar[str] = (
        "control: lower resolution, means over a coarser grid; at most the budget, at least one per frame"
    )
    source: ClassVar[Source] = Source("control of this project", note="average pooling is the baseline of most papers")
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "keeps the same grid of every frame"
    parity: ClassVar[Parity] = "control"

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """The cells of all frames."""
        rows, columns = self._cells(frames, grid, keep)
        return frames * rows * columns

    def _cells(self, frames: int, grid: tuple[int, int], keep: float) -> tuple[int, int]:
        return _coarser(grid, max(1, token_budget(frames * grid[0] * grid[1], keep) // frames))

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Average within cells."""
        frames = view.features.shape[0]
        (height, width), device = view.grid, view.features.device
        rows, columns = self._cells(frames, view.grid, keep)
        row = torch.arange(height, device=device) * rows // height
        column = torch.arange(width, device=device) * columns // width
        cell = (row[:, None] * columns + column).flatten()  # [N]
        sizes = torch.zeros(rows * columns, device=device).index_add_(
            0, cell, torch.ones_like(cell, dtype=torch.float32)
        )
        start = torch.arange(frames, device=device)[:, None]
        first = torch.full((rows * columns,), height * width, device=device)
        first = first.scatter_reduce(0, cell, torch.arange(height * width, device=device), "amin")
        return Reduction(
            (start * height * width + first).flatten(),
            (start * rows * columns + cell).flatten(),
            (1 / sizes)[cell].repeat(frames),
        )


def _coarser(grid: tuple[int, int], cells: int) -> tuple[int, int]:
    """The grid with the most cells, at most ``cells`` and no finer than ``grid``; among equals the squarest."""
    fits = [(h, w) for h in range(1, grid[0] + 1) for w in range(1, grid[1] + 1) if h * w <= cells]
    return max(fits, key=lambda size: (size[0] * size[1], -abs(size[0] - size[1]), size[0]))
