# SPDX-License-Identifier: Apache-2.0
"""Unified spatiotemporal compression (USTC), outer stage: one pool of tokens for the whole video.

Paper: "Unified Spatiotemporal Token Compression for Video-LLMs at Ultra-Low Retention".
Needs: salience.

In plain words, for a budget of B = round(r * T * N) tokens, Q = round(0.3 * B) of them clusters:
1. Walk through all tokens from the most to the least salient. A token enters the pool when its cosine with every token
   of the pool is below tau, until the pool holds B - Q.
2. The others are clustered (DPC-KNN) around Q centres; a cluster becomes its plain mean and stands at its centre.
Survivors are in raster order.

Our reading: text and code were not at hand, only detailed notes. When no token is different enough, the pool is
filled with those least similar to it, the more salient first among equals. Clusters use a fixed random projection to
``project`` dimensions where features are wider; k and the scale of distances are not published. Cost: T * N tokens
against the pool, and three times (T * N) squared times ``project`` for the clusters, both in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.dpc_blocks import density_peaks_of_many
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.projection import projected
from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["UnifiedSt", "different_pool", "first_independent"]

_SAME = 1 - 2.0**-18  # cosines above differ from one by rounding only
_BLOCK = 256  # candidates compared with each other at once


@dataclass(frozen=True)
class UnifiedSt(Method):
    """Parameters.

    Attributes:
        tau: cosine from which a token is too similar to enter the pool.
        clusters: share of the budget that is clusters, in [0, 1].
        k: neighbours of the density in DPC-KNN.
        project: dimensions for the clusters' distances, 0 for all of them.
    """

    tau: float = 0.7
    clusters: float = 0.3
    k: int = 7
    project: int = 64

    name: ClassVar[str] = "unified_st"
    summary: ClassVar[str] = "one pool for the whole video: salient tokens unlike each other, the rest in clusters"
    source: ClassVar[Source] = Source("Unified Spatiotemporal Token Compression", "CVPR 2026", "2603.21957")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    inner: ClassVar[str | None] = "unified_st"
    exact: ClassVar[bool] = True
    rule: ClassVar[str] = "rounds the budget"

    def __post_init__(self) -> None:
        if not -1 <= self.tau <= 1:
            raise ValueError(f"tau must be in [-1, 1], got {self.tau}")
        if not 0 <= self.clusters <= 1:
            raise ValueError(f"clusters must be in [0, 1], got {self.clusters}")
        for name, least in (("k", 1), ("project", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """``round(keep * T * N)``, at least one."""
        check_keep(keep)
        return max(1, round(frames * grid[0] * grid[1] * keep))

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``round(keep * T * N)`` tokens survive, at least one."""
        rows = view.features.detach().reshape(view.total, -1)
        budget = self.count(view.features.shape[0], view.grid, keep)
        clusters = round(budget * self.clusters)
        salience = signal(view, "salience", self.name).float().flatten().nan_to_num(nan=-torch.inf)
        label = first_equal(rows)
        pool = different_pool(rows, salience, self.tau, budget - clusters, label)
        anchor = torch.full_like(label, -1)
        anchor[pool] = pool
        rest = (anchor < 0).nonzero()[:, 0]
        if clusters:
            owner = density_peaks_of_many(projected(rows[rest], self.project), clusters, self.k, label[rest])
            anchor[rest] = rest[owner]
        return mean_of_members(anchor)


def different_pool(rows: Tensor, salience: Tensor, tau: float, most: int, label: Tensor) -> Tensor:
    """Step 1 of the module: ``most`` indices into rows [R, D]; salience, label: [R]."""
    order = salience.argsort(descending=True, stable=True)
    pool = torch.empty(most, rows.shape[1], device=rows.device)
    picks: list[Tensor] = []
    size = 0
    for part in torch.split(order, _BLOCK):
        unit = unit_rows(rows[part])
        fits = _nearest(unit, pool[:size]) < tau
        close = (unit @ unit.T).masked_fill_(~fits, -torch.inf)
        close = torch.where(close > _SAME, 1.0, close) >= tau
        entered = first_independent(close.tril(-1), fits).nonzero()[: most - size, 0]
        pool[size : size + entered.numel()] = unit[entered]
        picks.append(part[entered])
        size += entered.numel()
        if size == most:
            return torch.cat(picks)
    return _filled(rows, order, torch.cat(picks), pool[:size], most, label)


def first_independent(conflict: Tensor, allowed: Tensor) -> Tensor:
    """Walk through the items in order and accept those that conflict with no accepted one.

    Args:
        conflict: [n, n] bool, strictly lower triangular: whether an item conflicts with an earlier one.
        allowed: [n] bool, items that may be accepted at all.

    Returns:
        [n] bool. The walk is done for all items at once, as often as the longest chain of conflicts is long.
    """
    open_, accepted = allowed.clone(), torch.zeros_like(allowed)
    while bool(open_.any()):
        ready = open_ & ~(conflict & open_).any(dim=1)
        accepted |= ready
        open_ &= ~ready & ~(conflict & ready).any(dim=1)
    return accepted


def _filled(rows: Tensor, order: Tensor, picks: Tensor, pool: Tensor, most: int, label: Tensor) -> Tensor:
    """Fill the pool up to ``most`` with the tokens least similar to it; among equals the first in ``order``."""
    step = max(1, block_bytes(rows.device) // (4 * max(rows.shape[1], len(pool), 1)))
    near = torch.cat([_nearest(unit_rows(part), pool) for part in torch.split(rows, step)])[label]
    taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    taken[picks] = True
    left = order[~taken[order]]
    return torch.cat([picks, left[near[left].argsort(stable=True)][: most - picks.numel()]])


def _nearest(unit: Tensor, pool: Tensor) -> Tensor:
    """Largest cosine [b] of each row [b, D] with the pool [p, D], one for copies; below every cosine for no pool."""
    if len(pool) == 0:
        return unit.new_full((len(unit),), -2.0)
    near = (unit @ pool.T).amax(dim=1)
    return torch.where(near > _SAME, 1.0, near)
