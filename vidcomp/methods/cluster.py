# SPDX-License-Identifier: Apache-2.0
"""Token Sequence Compression: cluster the tokens and average each cluster.

Paper: "Token Sequence Compression for Efficient Multimodal Computing".
Needs nothing but features.

In plain words: k-means of the tokens' directions (cosine), and one plain mean per cluster. Clusters are ordered by
their first token; each stands at the token nearest to its mean.

Our reading: the kind of k-means, its start and the order are not stated. Here it starts from tokens that are far from
each other (max-min selection) and takes ``rounds`` steps; a cluster that runs empty restarts at the token worst
covered. Frames are clustered ``window`` at a time, anew where a given span (``--segmenter``) begins, so tokens that
repeat over a few frames merge; the budget is spread evenly over the windows by their frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vidcomp.core.budget import allocate, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView, merge_rows
from vidcomp.methods.base import Method
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.maxmin import farthest_first
from vidcomp.methods.blocks.pieces import pieces
from vidcomp.methods.blocks.similarity import products

__all__ = ["Cluster", "spherical_means"]

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Cluster(Method):
    """Parameters.

    Attributes:
        window: frames clustered together.
        rounds: steps of k-means.
    """

    window: int = 8
    rounds: int = 5

    name: ClassVar[str] = "cluster"
    summary: ClassVar[str] = "k-means over a few frames at a time, one mean per cluster"
    source: ClassVar[Source] = Source("Token Sequence Compression", arxiv="2504.17892")
    exact: ClassVar[bool] = True
    span_rule: ClassVar[str] = "fall"

    def __post_init__(self) -> None:
        for name in ("window", "rounds"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``ceil(keep * T * N)`` tokens survive; a window that gets none of the budget is dropped."""
        budget = token_budget(view.total, keep)
        features = view.features.detach()
        frames, tokens = features.shape[:2]
        spans = pieces(frames, self.window, view.spans)
        sizes = np.array([len(span) * tokens for span in spans])
        anchor = torch.full((view.total,), -1, device=features.device)
        for span, count in zip(spans, allocate(sizes, budget, sizes).tolist(), strict=True):
            low, high = span.start * tokens, (span.end + 1) * tokens
            if count:
                rows = features[span.start : span.end + 1].flatten(0, 1)
                anchor[low:high] = low + spherical_means(rows, count, self.rounds)
        return _by_first_member(anchor, spans)


def spherical_means(rows: Tensor, count: int, rounds: int) -> Tensor:
    """Cluster rows [R, D] by direction into ``count`` groups: [R] int64, the row nearest to the mean of each row's."""
    unit = unit_rows(rows)
    centres = unit[farthest_first(rows, count)]
    for _ in range(rounds):
        owner = _assigned(unit, centres)
        centres = _means(unit, owner, count)
    owner = _assigned(unit, centres)
    return _nearest_member((unit * _means(unit, owner, count)[owner]).sum(dim=1), owner, count)[owner]


def _assigned(unit: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre of each row: [R]; every centre has a row."""
    count = len(centres)
    best = products(unit, centres).max(dim=1)
    owner = best.indices
    empty = (torch.bincount(owner, minlength=count) == 0).nonzero()[:, 0]
    if empty.numel():
        held = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
        held[_nearest_member(best.values, owner, count)[owner]] = True  # one row per group stays
        worst = best.values.masked_fill(held, torch.inf).argsort(stable=True)[: empty.numel()]
        owner[worst] = empty
    return owner


def _nearest_member(cosine: Tensor, owner: Tensor, count: int) -> Tensor:
    """For each group the first row with the largest cosine: [count]; no meaning for an empty group.

    Two members are equally near to their mean, whatever rounding makes of it.
    """
    best = cosine.new_full((count,), -torch.inf).scatter_reduce(0, owner, cosine, "amax")
    place = torch.arange(len(owner), device=owner.device).masked_fill(cosine < best[owner] - _ROUNDING, len(owner))
    found = torch.full((count,), len(owner), device=owner.device).scatter_reduce(0, owner, place, "amin")
    return found.clamp(max=len(owner) - 1)


def _means(unit: Tensor, owner: Tensor, count: int) -> Tensor:
    """Directions of the groups' means: [count, D]."""
    return unit_rows(merge_rows(unit, owner, torch.ones(len(unit), device=unit.device), count))


def _by_first_member(anchor: Tensor, spans: tuple[Span, ...]) -> Reduction:
    """From the survivor each token joins, -1 for none, to plain means ordered by their first members."""
    every = torch.arange(anchor.numel(), device=anchor.device)
    used = anchor >= 0
    first = torch.full_like(anchor, anchor.numel()).scatter_reduce(0, anchor[used], every[used], "amin")
    anchors = (first < anchor.numel()).nonzero()[:, 0]
    anchors = anchors[first[anchors].argsort()]
    number = torch.full_like(anchor, -1)
    number[anchors] = torch.arange(anchors.numel(), device=anchor.device)
    assign = torch.where(used, number[anchor.clamp(min=0)], -1)
    members = torch.bincount(assign[used], minlength=anchors.numel())
    return Reduction(anchors, assign, torch.where(used, 1 / members[assign.clamp(min=0)], 0.0), spans, raster=False)
