# SPDX-License-Identifier: Apache-2.0
"""ForestPrune: trees of similar and near tokens through time; those nearest to their root survive.

Paper: "ForestPrune: High-ratio Visual Token Compression for Video Multimodal Large Language Models via
Spatial-Temporal Forest Modeling". Needs nothing but the features.

In plain words:
1. Every frame keeps the share ``preselect`` of its tokens, those into which most flows on a graph of similar tokens
   (``blocks/graph_flow.py``).
2. Frame by frame, a token looks for the most similar token of the earlier frames, with a cosine of at least
   ``similarity``, at most ``1 - nearness`` away on the unit square (the larger of the two distances counts); of equals
   the nearest, then that of the older tree. It hangs under the newest token of that tree, or else is a root.
3. Where there are more roots than the budget, the later one of the most similar pair goes under the earlier one, again
   and again.
4. Tokens survive by depth, roots first, then by frame. Survivors are unchanged and in raster order.

Not as published: the budget is exact, and the share of step 1 rises where it could not be met (``official`` rounds as
the published code does); of equals, which the published code leaves to chance, the one with the larger flow survives;
step 2 looks back ``window`` frames instead of all, so that the cost stays in proportion to the video. The published
settings have 32 or 64 frames, where both are the same. Depth before everything favours early frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import guarded_ceil, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, exact_unless
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.graph_flow import gathered_norms
from vidcomp.methods.blocks.select import keep_only, top_mask
from vidcomp.methods.blocks.similarity import widest_float

__all__ = ["Forestprune", "depths", "grown_forest", "joined_roots"]

_EDGE, _TEMPERATURE, _STEPS = 0.5, 0.03, 5  # of the graph in step 1


@dataclass(frozen=True)
class Forestprune(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        preselect: share of the tokens of a frame that enter the forest, in (0, 1]; at least ``keep``.
        similarity: least cosine with a token to hang under (0.9, or 0.8 for VideoMME, in the published scripts).
        nearness: one less the largest distance to it (0.8, or 0.5).
        window: how many frames step 2 looks back, at least 1.
        official: counts as in the published code.
    """

    preselect: float = 0.5
    similarity: float = 0.9
    nearness: float = 0.8
    window: int = 64
    official: bool = False

    name: ClassVar[str] = "forestprune"
    summary: ClassVar[str] = "hangs tokens under similar ones of earlier frames and keeps those nearest to a root"
    source: ClassVar[Source] = Source(
        "ForestPrune", "CVPR 2026", "2603.22911", "https://github.com/luminousllsa/ForestPrune", "no licence"
    )
    exact: ClassVar[bool] = exact_unless("official")
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = (
        "meets the budget exactly; of equal tokens, which the published code leaves to chance, the one "
        "with the larger flow stays"
    )

    def __post_init__(self) -> None:
        if not 0 < self.preselect <= 1:
            raise ValueError(f"preselect must be in (0, 1], got {self.preselect}")
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be a whole number of at least 1, got {self.window!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the tokens of least depth."""
        budget = token_budget(view.total, keep)
        features, (frames, tokens) = view.features.detach(), view.features.shape[:2]
        each = max(1, round(tokens * self.preselect))
        if self.official:
            budget = min(frames * each, max(1, round(frames * each * keep / self.preselect)))
        each = max(each, guarded_ceil(budget / frames))
        flow = torch.stack([gathered_norms(rows, _EDGE, _TEMPERATURE, _STEPS)[0] for rows in features])
        chosen = top_mask(flow, torch.full((frames,), each, device=flow.device))
        nodes = chosen.flatten().nonzero()[:, 0]  # [T * each]
        parent = grown_forest(features, nodes.view(frames, each) % tokens, view.grid, self)
        joined_roots(features, nodes, parent, budget, self.window)
        rank = np.lexsort((-flow.flatten()[nodes].cpu().numpy(), np.arange(len(nodes)) // each, depths(parent)))
        return keep_only(nodes[torch.from_numpy(np.sort(rank[:budget])).to(nodes.device)], view.total)


def grown_forest(features: Tensor, places: Tensor, grid: tuple[int, int], rule: Forestprune) -> NDArray[np.int64]:
    """Step 2 of the module.

    Args:
        features: [T, N, D].
        places: [T, k] int64, positions of the nodes of each frame.

    Returns:
        [T * k] parent of each node, -1 for a root.
    """
    frames, each = places.shape
    apart, near = _distances(grid, rule.nearness, features.device)
    tree = torch.arange(frames * each, device=features.device).view(frames, each)
    parent = torch.full_like(tree, -1)
    tail = tree.flatten().clone()  # newest node of each tree, by the number of its root
    rows = (features[frame, places[frame]] for frame in range(frames))
    for frame, cosine in enumerate(_earlier_cosines(rows, rule.window)):
        window = slice(max(0, frame - rule.window), frame)
        if frame == 0:
            continue
        pairs = places[frame, :, None], places[window].flatten()
        feasible, known = near[pairs] & (cosine >= rule.similarity), tree[window].flatten()
        found, index = _best(cosine, apart[pairs], feasible, known)
        root = known[index]
        parent[frame] = torch.where(found, tail[root], -1)
        tree[frame] = torch.where(found, root, tree[frame])
        here = torch.arange(frame * each, (frame + 1) * each, device=tree.device)
        tail.scatter_reduce_(0, tree[frame], here, "amax")
    return parent.flatten().cpu().numpy()


def _distances(grid: tuple[int, int], nearness: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distances on the unit square [N, N] float32, and whether they are at most ``1 - nearness``."""
    row, column = (torch.arange(size) / max(1, size - 1) for size in grid)
    at = torch.cartesian_prod(row, column)
    apart = (at[:, None] - at).abs().amax(dim=2)
    return apart.to(device), (apart <= 1 - nearness).to(device)


def _earlier_cosines(groups: Iterable[Tensor], window: int) -> Iterator[Tensor]:
    """For each of T groups of rows [k, D] the cosines with those of the ``window`` groups before, [k, M] float32.

    Rounded from float64, so that equal tokens tie.
    """
    before: deque[Tensor] = deque(maxlen=window)
    for rows in groups:
        unit = unit_rows(rows).to(widest_float(rows.device))
        yield torch.cat([rows.new_zeros(len(rows), 0).float(), *((unit @ other.T).float() for other in before)], dim=1)
        before.append(unit)


def _best(cosine: Tensor, apart: Tensor, feasible: Tensor, tree: Tensor) -> tuple[Tensor, Tensor]:
    """For each of k nodes: whether any of M is feasible, and the index of the one with the largest cosine.

    Of equals the nearest, then the one of the tree with the lower number.
    """
    value = cosine.masked_fill(~feasible, -torch.inf)
    best = value.amax(dim=1)
    distance = apart.masked_fill(value < best[:, None], torch.inf)
    nearest = distance <= distance.amin(dim=1, keepdim=True)
    return best > -torch.inf, torch.where(nearest, tree, tree.max() + 1).argmin(dim=1)


def joined_roots(features: Tensor, nodes: Tensor, parent: NDArray[np.int64], most: int, window: int) -> None:
    """Hang roots under earlier ones, the most similar pair first, until ``most`` are left: step 3 of the module.

    Args:
        features: [T, N, D]; nodes: [P] flat indices, ascending.
        parent: [P], -1 for a root; changed in place.
        window: a root is compared with those of its frame and of as many frames before.
    """
    roots = np.flatnonzero(parent < 0)
    if len(roots) <= most:
        return
    places = nodes[torch.from_numpy(roots).to(nodes.device)]
    pairs = _RootPairs(features.reshape(-1, features.shape[2])[places], places // features.shape[1], window)
    for _ in range(len(roots) - most):
        later = pairs.closest()
        if later is None:
            return
        parent[roots[later]] = roots[pairs.earlier[later]]
        pairs.remove(later)


class _RootPairs:
    """For each root the most similar earlier one among those that are left: ``earlier`` [R], ``value`` [R]."""

    def __init__(self, rows: Tensor, frame: Tensor, window: int) -> None:
        frames = frame.cpu().numpy()
        self.low = np.searchsorted(frames, frames - window)
        self.left = np.ones(len(rows), dtype=bool)
        unit = unit_rows(rows).to(widest_float(rows.device))
        self.table: list[NDArray[np.float32]] = []
        for start, end in pairwise([*np.flatnonzero(np.diff(frames, prepend=-1)).tolist(), len(frames)]):
            low = int(self.low[start])
            block = (unit[start:end] @ unit[low:end].T).float().cpu().numpy()
            self.table += [line[: start - low + place] for place, line in enumerate(block)]
        self.earlier = np.zeros(len(rows), dtype=np.int64)
        self.value = np.full(len(rows), -np.inf, dtype=np.float32)
        self._look(np.arange(1, len(rows)))

    def _look(self, roots: NDArray[np.int64]) -> None:
        for root in roots.tolist():
            known = np.where(self.left[self.low[root] : root], self.table[root], -np.inf)
            if known.size:
                self.earlier[root], self.value[root] = self.low[root] + known.argmax(), known.max()

    def closest(self) -> int | None:
        """The later one of the most similar pair; of equals the pair with the lowest earlier one, then lowest later."""
        ties = np.flatnonzero(self.value == self.value.max())
        return None if self.value[ties[0]] == -np.inf else int(ties[self.earlier[ties].argmin()])

    def remove(self, root: int) -> None:
        """Take a root out of all pairs."""
        self.left[root], self.value[root] = False, -np.inf
        self._look(np.flatnonzero((self.earlier == root) & (self.value > -np.inf)))


def depths(parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of steps of each node from its root; a parent comes before its children."""
    depth = np.zeros(len(parent), dtype=np.int64)
    for node in np.flatnonzero(parent >= 0).tolist():
        depth[node] = depth[parent[node]] + 1
    return depth
