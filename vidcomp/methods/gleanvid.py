# SPDX-License-Identifier: Apache-2.0
"""GleanVID: frames get tokens for what they add to earlier frames, tokens are kept for what they add to kept ones.

Needs nothing but features.

In plain words, for T frames of N tokens and a budget of B = floor(r * T * N):
1. The direction in which all tokens vary most is taken out of them (debiased tokens).
2. Cells: means of debiased tokens over 2 x 2 positions. A cell adds the length of its part outside the span of the
   cells of earlier frames; a frame adds R, the sum over its cells.
3. With c the Gini coefficient of R and a = 0.6 - 0.4 * c, frame t gets a * B / T + (1 - a) * B * R_t / sum R tokens,
   at most N, in whole numbers by largest remainder; what a full frame cannot take goes to the others in the same
   proportions.
4. Frame by frame the best tokens survive: u + v, both brought to 0..1 within the frame. u is the softplus (sharpness
   4) of how much more alike a token is to its cell than to its frame (cosines of the tokens as they are); v is the
   length of the debiased token outside the span of those kept in earlier frames.

Our reading: no code is public. The direction of step 1 comes from ten steps of subspace iteration, not from an SVD. The
small ridge that keeps step 2 stable is 1e-4 of the mean squared length of all
cells, not only of the earlier ones, so that one Cholesky decomposition serves all frames. Odd sides of the grid have
narrower cells at the end. Lengths and spreads that rounding alone explains count as zero. Cost: products of the T * N
/ 4 cells with each other and a decomposition of that table; T * N * B products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import allocate, floor_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.equal import first_equal, first_of_same
from vidcomp.methods.blocks.select import keep_marked, top_mask
from vidcomp.methods.blocks.similarity import widest_float

__all__ = ["Gleanvid", "cell_means", "frame_quota", "novelty", "without_main_direction"]

_RIDGE = 1e-4
_RANK = 1e-4  # of the longest: shorter remainders add no direction
_SHARPNESS = 4.0
_NOTHING = 2.0**-16  # of a squared length: what rounding may leave of zero


@dataclass(frozen=True)
class Gleanvid(Method):
    """Parameters, of step 3: the evenly spread share of the budget when all frames add the same, and when one adds all.

    Attributes:
        even: the former, 0.6.
        peaked: the latter, 0.2.
    """

    even: float = 0.6
    peaked: float = 0.2

    name: ClassVar[str] = "gleanvid"
    summary: ClassVar[str] = "frames get tokens for what they add to earlier ones; keeps tokens outside the kept span"
    source: ClassVar[Source] = Source("GleanVID", arxiv="2609.37042")
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "rounds the budget down"

    def __post_init__(self) -> None:
        if not 0 <= self.peaked <= self.even <= 1:
            raise ValueError(f"0 <= peaked <= even <= 1 is needed, got peaked={self.peaked}, even={self.even}")

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """``floor(keep * T * N)``, at least one."""
        return floor_budget(frames * grid[0] * grid[1], keep)

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``floor(keep * T * N)`` tokens, at least one."""
        budget = self.count(view.features.shape[0], view.grid, keep)
        features = view.features.detach().float()
        frames, tokens, width = features.shape
        debiased = without_main_direction(features.reshape(-1, width)).reshape(features.shape)
        added = novelty(cell_means(debiased, view.grid)).cpu().numpy()
        counts = allocate(frame_quota(added, budget, self.even, self.peaked), budget, [tokens] * frames)
        local = F.softplus(_locality(features, view.grid), beta=_SHARPNESS)  # [T, N]
        label = first_equal(features.reshape(-1, width)).reshape(frames, tokens)
        return keep_marked(_chosen(debiased, local, label, counts))


def without_main_direction(rows: Tensor, columns: int = 8, rounds: int = 10) -> Tensor:
    """[R, D] float32 rows without their part along the first principal direction; their mean stays.

    The direction comes from ``rounds`` steps of subspace iteration with ``columns`` vectors from a fixed start.
    """
    mean = rows.mean(dim=0, dtype=widest_float(rows.device)).float()
    start = torch.randn(rows.shape[1], min(columns, *rows.shape), generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start.to(rows.device)).Q
    for _ in range(rounds):
        along = rows @ basis - mean @ basis
        basis = torch.linalg.qr(rows.T @ along - torch.outer(mean, along.sum(dim=0))).Q
    along = rows @ basis - mean @ basis
    main = basis @ torch.linalg.eigh(along.T @ along).eigenvectors[:, -1]
    return rows - torch.outer(rows @ main - mean @ main, main)


def cell_means(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over 2 x 2 positions: [T, N, D] to [T, K, D], K = ceil(H / 2) * ceil(W / 2)."""
    height, width = grid
    table = features.reshape(len(features), height, width, -1)
    top, bottom = table[:, 0::2], table[:, [min(row + 1, height - 1) for row in range(0, height, 2)]]
    right = [min(column + 1, width - 1) for column in range(0, width, 2)]
    sums = top[:, :, 0::2] + top[:, :, right] + bottom[:, :, 0::2] + bottom[:, :, right]
    return (sums / 4).flatten(1, 2)


def novelty(cells: Tensor) -> Tensor:
    """Novelty of each frame, step 2 of the module: cells [T, K, D] to [T], as wide as the device has.

    With L the Cholesky factor of all products plus the ridge, the squared length of cell n outside the span of earlier
    frames is its own minus the squared length of L's row n up to them.
    """
    frames, count, width = cells.shape
    rows = cells.reshape(-1, width)
    product = (rows @ rows.T).to(widest_float(rows.device))
    squares = product.diagonal().clone()
    ridge = _RIDGE * squares.mean() + torch.finfo(product.dtype).tiny ** 0.5
    factor = torch.linalg.cholesky(product + ridge * torch.eye(len(rows), dtype=product.dtype, device=rows.device))
    explained = torch.stack(
        [factor[t * count : (t + 1) * count, : t * count].square().sum(dim=1) for t in range(frames)]
    )
    return (squares.reshape(frames, count) - explained).clamp(min=0).sqrt().sum(dim=1)


def frame_quota(added: NDArray[np.float64], budget: int, even: float, peaked: float) -> NDArray[np.float64]:
    """Step 3 of the module, in real numbers: [T] that sum to the budget."""
    frames, total = len(added), float(added.sum())
    if total <= 0:
        return np.full(frames, budget / frames)
    rank = np.arange(1, frames + 1)
    gini = 2 * float((rank * np.sort(added)).sum()) / (frames * total) - (frames + 1) / frames
    spread = even - (even - peaked) * gini
    quota: NDArray[np.float64] = spread * budget / frames + (1 - spread) * budget * added / total
    return quota


def _locality(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosine of each token with the mean of its cell minus that with the mean of its frame: [T, N]."""
    height, width = grid
    cells = unit_rows(cell_means(features, grid))
    row, column = torch.arange(height) // 2, torch.arange(width) // 2
    cell = (row[:, None] * ((width + 1) // 2) + column).flatten().to(features.device)
    found = torch.empty(features.shape[:2], device=features.device)
    for frame in range(len(features)):
        unit = unit_rows(features[frame])
        middle = unit_rows(features[frame].mean(dim=0))
        found[frame] = (unit * cells[frame, cell]).sum(dim=1) - (unit * middle).sum(dim=1)
    return found


def _chosen(debiased: Tensor, local: Tensor, label: Tensor, counts: NDArray[np.int64]) -> Tensor:
    """Step 4 of the module: [T, N] bool."""
    frames, tokens, width = debiased.shape
    length = debiased.square().sum(dim=2)  # [T, N], squared
    left = length.clone()
    kept = torch.zeros(frames, tokens, dtype=torch.bool, device=debiased.device)
    basis = debiased.new_zeros(0, width)
    for frame, count in enumerate(counts.tolist()):
        outside = left[frame][first_of_same(label[frame])]
        outside = torch.where(outside > _NOTHING * length[frame], outside, 0.0).sqrt()
        score = _zero_to_one(local[frame]) + _zero_to_one(outside)
        kept[frame] = top_mask(score[None], torch.tensor([count], device=score.device))[0]
        new = _new_directions(debiased[frame, kept[frame] & (outside > 0)], basis)
        basis = torch.cat([basis, new])
        left[frame + 1 :] -= (debiased[frame + 1 :] @ new.T).square().sum(dim=2)
    return kept


def _new_directions(rows: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows [k', D] for what rows [k, D] add to the span of the basis [b, D]."""
    for _ in range(2):  # once more: the first difference is only as orthogonal as rounding lets it
        rows = rows - (rows @ basis.T) @ basis
    if len(rows) == 0:
        return rows
    directions, upper = torch.linalg.qr(rows.T)
    size = upper.diagonal().abs()
    new: Tensor = directions.T[size > _RANK * size.max().clamp(min=1e-30)]
    return new


def _zero_to_one(values: Tensor) -> Tensor:
    """[N] brought to 0..1; all zero where they differ by rounding only."""
    low, high = values.aminmax()
    spread = high - low
    return torch.where(spread > 1e-6 * high.abs().clamp(min=1e-30), (values - low) / spread.clamp(min=1e-30), 0.0)
