# SPDX-License-Identifier: Apache-2.0
"""SURGE: tokens that the two frames before do not predict survive.

Paper: "SURGE: Surprise-Guided Token Reduction for Efficient Video Understanding with VLMs".
Needs nothing but the features.

In plain words, at every position of the grid:
1. Prediction: the token of the frame before, moved on by its last change; of that change a plane over the grid (fitted
   by least squares per channel: camera motion, light) is left out. The second frame is predicted to equal the first.
2. Surprise: the squared error of the prediction, divided by its running mean at that position (the present error
   included), so that what always moves surprises no more than what never does.
3. The most surprising tokens survive, over all frames but the first, which is kept whole.

The published rule keeps what reaches the ``1 - keep`` quantile of all surprises: the first frame comes on top, and a
still video is kept whole, because zero reaches zero (``official``). Here the budget counts every frame: the most
surprising tokens are taken, of equals the earlier ones, and the first frame has at most half of the budget, its tokens
least like their mean, where it would take more. CLIP's focus on events is not in the published code, nor here.
As published, and worth knowing: the second frame's surprise is 1 at every position, so it stays or goes as a block; the
running mean starts with the error of a plain difference, so the first seconds seem more surprising than they are; a cut
surprises twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, exact_unless
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import keep_marked, top_mask
from vidcomp.methods.blocks.similarity import widest_float

__all__ = ["Surge", "surprises"]

_TINY = 1e-8


@dataclass(frozen=True)
class Surge(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        decay: share of the old running mean in the new one, in [0, 1].
        drift: leave a plane over the grid out of the last change.
        normalise: divide an error by the running mean of its position.
        official: the published threshold, with the first frame on top of the budget.
    """

    decay: float = 0.9
    drift: bool = True
    normalise: bool = True
    official: bool = False

    name: ClassVar[str] = "surge"
    summary: ClassVar[str] = "keeps tokens that the two frames before do not predict"
    source: ClassVar[Source] = Source("SURGE", "ICLR 2026", code="https://github.com/BarryTang22/SURGE")
    exact: ClassVar[bool] = exact_unless("official")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the most surprising tokens."""
        budget = token_budget(view.total, keep)
        features = view.features.detach()
        score = surprises(features, view.grid, self.decay, self.drift, self.normalise)
        if self.official:
            first = torch.ones_like(score[:1] if len(score) else features[:1, :, 0], dtype=torch.bool)
            return keep_marked(torch.cat([first, score >= _quantile(score.flatten(), 1 - keep)]))
        first_count = _first_share(budget, *features.shape[:2])
        flat = top_mask(score.reshape(1, -1), torch.tensor([budget - first_count], device=score.device))
        return keep_marked(torch.cat([_least_common(features[0], first_count), flat.view_as(score)]))


def surprises(features: Tensor, grid: tuple[int, int], decay: float, drift: bool, normalise: bool) -> Tensor:
    """Surprise of the tokens of all frames but the first: [T - 1, N] float32, from features [T, N, D]."""
    design, solve = _plane(grid, features.device)
    found, running, step = [], None, None
    for frame in range(1, len(features)):
        before, here = features[frame - 1].float(), features[frame].float()
        error = here - before
        if step is not None:
            error = error - (step - design @ (solve @ step) if drift else step)
        square = error.square().sum(dim=1)
        running = square if running is None else decay * running + (1 - decay) * square
        found.append(square / (running + _TINY) if normalise else square)
        step = here - before
    return torch.stack(found) if found else features.new_zeros(0, features.shape[1], dtype=torch.float32)


def _plane(grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns 1, x, y of the grid [N, 3], and what fits them to values by least squares [3, N]."""
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    design = torch.stack([torch.ones_like(x), x, y], dim=-1).reshape(-1, 3).to(widest_float(torch.device("cpu")))
    return design.float().to(device), torch.linalg.pinv(design).float().to(device)


def _quantile(values: Tensor, share: float) -> Tensor:
    """The quantile with linear interpolation, of any number of values; minus infinity of none or for share 0."""
    if values.numel() == 0 or share <= 0:
        return torch.tensor(-torch.inf, device=values.device)
    place = share * (values.numel() - 1)
    low, high = (values.kthvalue(int(at) + 1).values for at in (place // 1, -(-place // 1)))
    return torch.lerp(low, high, place % 1)


def _first_share(budget: int, frames: int, tokens: int) -> int:
    """Tokens of the first frame: all, but at most half of the budget unless the others cannot take the rest."""
    return max(min(tokens, -(-budget // 2)), budget - (frames - 1) * tokens)


def _least_common(frame: Tensor, count: int) -> Tensor:
    """[1, N] bool: the ``count`` tokens of [N, D] least like their mean."""
    unit = unit_rows(frame)
    common = (unit * unit_rows(unit.mean(dim=0))).sum(dim=1)
    return top_mask(-common[None], torch.tensor([count], device=frame.device))
