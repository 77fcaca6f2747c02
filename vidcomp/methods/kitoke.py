# SPDX-License-Identifier: Apache-2.0
"""KiToke: sample tokens that have few neighbours in feature space, merge the rest into them within intervals.

Paper: "KiToke: Kernel-based Interval-aware Token Compression for Video Large Language Models".
Needs nothing but features.

In plain words, for a budget of B = floor(r * T * N) tokens:
1. A token's crowding is the sum over all tokens of exp(-squared distance / alpha); its weight is one over it.
2. Tokens are drawn with probabilities in proportion to their weights, at most one, that sum to B; pivotal sampling
   draws exactly B and keeps every probability: two undecided tokens share theirs until one of them is decided.
3. The video is cut where frames differ much from the ones before, position by position and in their best matches.
   Spans that are given (``--segmenter``) take the place of these intervals.
4. Every other token joins the drawn token of its interval with the largest cosine; survivors are means by weight.
Survivors are in raster order.

Our reading (no code of the paper is public): alpha is ``bandwidth`` times the median squared distance of 512 evenly
spaced tokens, since the published 800 fits one projector only. Distances are those of a fixed random projection to
``project`` dimensions where features are wider. Cuts keep the published proportions (a difference above 110, or a
rise of 70 that is also a rise by 40 %) relative to the video: 110 stands for the median difference plus three times
its spread (1.48 times the median deviation). Pairs are neighbours in raster order, all pairs at once, round after
round. An interval without a drawn token takes the place of the most crowded drawn token of the interval that has
most. Cost: T * N squared times ``project`` for the crowding, in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import floor_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods.base import Method, check_seed
from vidcomp.methods.blocks.cosine import nearest_kept
from vidcomp.methods.blocks.deviations import unusual_level
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.merge import weighted_mean
from vidcomp.methods.blocks.projection import projected
from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["Kitoke", "crowding", "inclusion", "intervals", "pivotal", "systematic"]

_SAMPLE = 512  # tokens whose distances set the bandwidth
_DECIDED = 1e-9
_RISE, _RELATIVE = 70 / 110, 0.40
_EQUAL = 2.0**-18  # of the squared lengths: what rounding may leave of a distance of zero


@dataclass(frozen=True)
class Kitoke(Method):
    """Parameters.

    Attributes:
        bandwidth: alpha over the median squared distance.
        project: dimensions for distances, 0 for all of them.
        sampling: ``pivotal`` draws with ``seed``; ``systematic`` draws nothing: it walks along the raster and takes a
            token each time the summed probabilities pass a half.
        seed: of the draw, None for the run's. Report the mean over several.
    """

    bandwidth: float = 0.2
    project: int = 128
    sampling: str = "pivotal"
    seed: int | None = None

    name: ClassVar[str] = "kitoke"
    summary: ClassVar[str] = "samples tokens with few neighbours, merges the rest into them within intervals"
    source: ClassVar[Source] = Source("KiToke", arxiv="2604.03414")
    exact: ClassVar[bool] = True
    span_rule: ClassVar[str] = "fall"
    rule: ClassVar[str] = "rounds the budget down"

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be above 0, got {self.bandwidth}")
        if self.sampling not in ("pivotal", "systematic"):
            raise ValueError(f"sampling must be pivotal or systematic, got {self.sampling!r}")
        if not isinstance(self.project, int) or self.project < 0:
            raise ValueError(f"project must be a whole number of at least 0, got {self.project!r}")
        check_seed(self.seed)

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """``floor(keep * T * N)``, at least one."""
        return floor_budget(frames * grid[0] * grid[1], keep)

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Draw exactly ``floor(keep * T * N)`` tokens, at least one, and merge the others."""
        budget = self.count(view.features.shape[0], view.grid, keep)
        features = view.features.detach()
        rows = features.reshape(view.total, -1)
        points = projected(rows, self.project)
        crowd = crowding(points, self.bandwidth)[first_equal(rows)]
        chance = inclusion(1 / crowd.cpu().double().numpy(), budget)
        drawn = pivotal(chance, self.seed or 0) if self.sampling == "pivotal" else systematic(chance)
        spans = view.spans or intervals(points.reshape(*features.shape[:2], -1))
        drawn = _none_empty(drawn, crowd.cpu().numpy(), spans, features.shape[1])
        kept = torch.from_numpy(drawn).to(rows.device).reshape(features.shape[:2])
        return weighted_mean(nearest_kept(features, kept, spans), 1 / crowd, spans)


def crowding(points: Tensor, bandwidth: float) -> Tensor:
    """Step 1 for [R, D] float32: [R] float32, from 1 to R."""
    total, device = len(points), points.device
    points = points - points.mean(dim=0)
    squares = points.square().sum(dim=1)
    count = min(_SAMPLE, total)
    some = points[(2 * torch.arange(count, device=device) + 1) * total // (2 * count)]
    apart = torch.pdist(some).square() if count > 1 else some.new_zeros(1)
    alpha = float(apart.median()) * bandwidth
    found = torch.empty(total, device=device)
    step = max(1, block_bytes(device) // (4 * total))
    for low in range(0, total, step):
        part = slice(low, low + step)
        scale = squares[part, None] + squares
        distance = torch.addmm(scale, points[part], points.T, alpha=-2)
        distance = distance.masked_fill_(distance <= scale * _EQUAL, 0)
        found[part] = (distance / -max(alpha, 1e-30)).exp_().sum(dim=1)
    return found.clamp(min=1)


def inclusion(weight: NDArray[np.float64], budget: int) -> NDArray[np.float64]:
    """Probabilities [R] in proportion to weights above zero, at most one, that sum to ``budget``."""
    chance = np.zeros(len(weight))
    sure = np.zeros(len(weight), dtype=bool)
    while budget > sure.sum():
        rest = np.where(sure, 0.0, weight)
        chance = np.where(sure, 1.0, rest / max(rest.sum(), 1e-300) * (budget - sure.sum()))
        over = ~sure & (chance >= 1)
        if not over.any():
            return chance
        sure |= over
    return sure.astype(np.float64)


def pivotal(chance: NDArray[np.float64], seed: int) -> NDArray[np.bool_]:
    """Draw as many of R as their probabilities sum to, each with its own; neighbours decide between them first."""
    chance, draw = chance.copy(), torch.Generator().manual_seed(seed)
    while True:
        open_ = np.flatnonzero((chance > _DECIDED) & (chance < 1 - _DECIDED))
        if len(open_) < 2:
            return chance > 0.5
        one, two = open_[: len(open_) // 2 * 2].reshape(-1, 2).T
        a, b = chance[one], chance[two]
        both, luck = a + b, torch.rand(len(one), generator=draw, dtype=torch.float64).numpy()
        small = both <= 1
        first = luck < np.where(small, a / both, (1 - b) / np.maximum(2 - both, 1e-300))
        high, low = np.where(small, both, 1.0), np.where(small, 0.0, both - 1)
        chance[one], chance[two] = np.where(first, high, low), np.where(first, low, high)


def systematic(chance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Take an element each time the running sum of the probabilities passes a half, one and a half, and so on."""
    running = np.round(np.concatenate([[0.0], chance.cumsum()]), 9)
    taken: NDArray[np.bool_] = np.diff(np.floor(running + 0.5)) > 0
    return taken


def intervals(points: Tensor) -> tuple[Span, ...]:
    """Step 3 for [T, N, D] float32."""
    difference = _differences(points).cpu().numpy()
    level = unusual_level(difference)
    before = np.concatenate([difference[:1], difference[:-1]])
    rise = difference - before
    cut = (difference > level) | ((rise > _RISE * level) & (rise > _RELATIVE * before))
    starts = [0, *(np.flatnonzero(cut) + 1).tolist()]
    return tuple(Span(start, end - 1) for start, end in zip(starts, [*starts[1:], len(points)], strict=True))


def _differences(points: Tensor) -> Tensor:
    """Mean distance of each token to its place in the next frame, plus to its best match there: [T - 1]."""
    found = torch.zeros(len(points) - 1, device=points.device)
    for frame in range(1, len(points)):
        old, new = points[frame - 1], points[frame]
        place = (new - old).square().sum(dim=1).sqrt()
        match = torch.cdist(old, new, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        found[frame - 1] = place.mean() + match.mean()
    return found


def _none_empty(
    drawn: NDArray[np.bool_], crowd: NDArray[np.float32], spans: tuple[Span, ...], tokens: int
) -> NDArray[np.bool_]:
    """Give every interval a drawn token as long as another one has two."""
    drawn = drawn.copy()
    parts = [np.arange(span.start * tokens, (span.end + 1) * tokens) for span in spans]
    for part in parts:
        have = [int(drawn[other].sum()) for other in parts]
        donor = parts[int(np.argmax(have))]
        if drawn[part].any() or max(have) < 2:
            continue
        drawn[donor[np.argmax(np.where(drawn[donor], crowd[donor], -1))]] = False
        drawn[part[np.argmin(crowd[part])]] = True
    return drawn
