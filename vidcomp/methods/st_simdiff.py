# SPDX-License-Identifier: Apache-2.0
"""ST-SimDiff, outer stage: of tokens that hang together in space and time, the least central ones are dropped.

Paper: "ST-SimDiff: Balancing Spatiotemporal Similarity and Difference for Efficient Video Understanding with MLLMs".
Needs nothing but the features.

In plain words, for the share s = 1 - keep that is to go:
1. Edges: to the token at the same place of the frame before, and to the right and lower neighbour, where the cosine is
   at least ``same`` (in space: above). Tokens that hang together are a component.
2. Components come by falling mean cosine of their members. Each gives up ceil(m * s) of its m tokens, those with the
   smallest mean cosine to its members, as long as no more than s of all tokens go.
3. A token whose cosine with the frame before is below ``event`` stays.
Survivors are unchanged and in raster order. Tokens without an edge stay, so that moving videos keep more than asked
for; the published method goes on inside the language model (``--inner st_simdiff``).

Not as published (``official``): every component keeps its most central token, where the published code deletes small
ones whole; and a component that would drop too much is passed over, where the published code ends there. Separators
are no part of the graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import guarded_ceil
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView, merge_rows
from vidcomp.methods.base import Method, Parity, check_keep
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import keep_marked
from vidcomp.methods.blocks.similarity import frame_cosine, widest_float

__all__ = ["StSimdiff", "components"]


@dataclass(frozen=True)
class StSimdiff(Method):
    """At least about ``keep * T * N`` tokens.

    Attributes:
        same: cosine from which on tokens hang together.
        event: cosine with the frame before below which a token stays.
        official: drop as the published code does.
    """

    same: float = 0.8
    event: float = 0.2
    official: bool = False

    name: ClassVar[str] = "st_simdiff"
    summary: ClassVar[str] = "drops the least central of tokens that hang together in space and time"
    source: ClassVar[Source] = Source(
        "ST-SimDiff", "ICLR 2026", "2605.22158", "https://github.com/bingjunluo/ST-SimDiff"
    )
    inner: ClassVar[str | None] = "st_simdiff"
    rule: ClassVar[str] = "drops only tokens that resemble a neighbour"
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "keeps a token of every component, and passes over those that would drop too much"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Drop within components."""
        check_keep(keep)
        features, (frames, tokens) = view.features.detach(), view.features.shape[:2]
        before = torch.arange(frames - 1, device=features.device)
        cosine = frame_cosine(features, before + 1, before)
        number = components(*_edges(features, cosine.cpu().numpy(), view.grid, self.same), frames * tokens)
        central, score = _centrality(features.reshape(view.total, -1), torch.from_numpy(number).to(features.device))
        spared = np.zeros((frames, tokens), dtype=bool)
        spared[1:] = (cosine < self.event).cpu().numpy()
        gone = self._dropped(number, central, score, spared.ravel(), 1 - keep)
        return keep_marked(torch.from_numpy(~gone).to(features.device).view(frames, tokens))

    def _dropped(
        self, number: NDArray[np.int64], central: NDArray[np.float64], score: NDArray[np.float32],
        spared: NDArray[np.bool_], share: float,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """[T * N] bool: steps 2 and 3 of the module."""
        gone = np.zeros(len(number), dtype=bool)
        order = np.lexsort((-central, number))  # component after component, most central first
        starts = np.searchsorted(number[order], np.arange(len(score) + 1))
        for component in np.argsort(-score, kind="stable").tolist():
            members = order[starts[component] : starts[component + 1]]
            if len(members) < 2:
                continue
            count = math.ceil(len(members) * share) if self.official else guarded_ceil(len(members) * share)
            count = min(count, len(members) if self.official else len(members) - 1)
            if (gone.sum() + count) / len(gone) > share:
                if self.official:
                    break
                continue
            last = members[len(members) - count :]
            gone[last[~spared[last]]] = True
        return gone


def _edges(
    features: Tensor, cosine: NDArray[np.float32], grid: tuple[int, int], same: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both ends of every edge, as flat indices; ``cosine`` [T - 1, N] with the frame before."""
    frames, tokens = features.shape[:2]
    index = np.arange(frames * tokens).reshape(frames, *grid)
    late = cosine.reshape(frames - 1, *grid) >= same
    one, other = [index[1:][late]], [index[:-1][late]]
    wide = torch.stack([_neighbours(unit_rows(frame).view(*grid, -1), 1) for frame in features]).cpu().numpy() > same
    tall = torch.stack([_neighbours(unit_rows(frame).view(*grid, -1), 0) for frame in features]).cpu().numpy() > same
    one += [index[:, :, 1:][wide], index[:, 1:][tall]]
    other += [index[:, :, :-1][wide], index[:, :-1][tall]]
    return np.concatenate(one), np.concatenate(other)


def _neighbours(unit: Tensor, axis: int) -> Tensor:
    """Cosines of unit rows [H, W, D] with the next ones along an axis, rounded from float64."""
    size = unit.shape[axis] - 1
    wide = unit.to(widest_float(unit.device))
    return (wide.narrow(axis, 0, size) * wide.narrow(axis, 1, size)).sum(dim=2).float()


def components(one: NDArray[np.int64], other: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """[total] number of the component of each node, by first nodes; one, other: both ends of every edge."""
    label = np.arange(total)
    while True:
        low = np.minimum(label[one], label[other])
        following = label.copy()
        np.minimum.at(following, label[one], low)
        np.minimum.at(following, label[other], low)
        following = following[following]
        if np.array_equal(following, label):
            return np.unique(label, return_inverse=True)[1].astype(np.int64)
        label = following


def _centrality(rows: Tensor, number: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean cosine of each token [R, D] with its component, itself included, and mean cosine of pairs per component."""
    unit, size = unit_rows(rows), torch.bincount(number)
    mean = merge_rows(unit, number, (1 / size)[number], len(size)).to(widest_float(rows.device))
    central = (unit.to(mean.dtype) * mean[number]).sum(dim=1)
    whole = mean.square().sum(dim=1)
    score = (size * whole - 1) / (size - 1).clamp(min=1)
    return central.float().double().cpu().numpy(), score.float().cpu().numpy()
