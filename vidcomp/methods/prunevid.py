# SPDX-License-Identifier: Apache-2.0
"""PruneVid, outer stage: average what stays the same within a scene, then cluster it, and cluster each frame's rest.

Paper: "PruneVid: Visual Token Pruning for Efficient Video Large Language Models".
Needs nothing but the features.

In plain words, for T frames of N tokens:
1. Frame means are clustered (DPC-KNN) into floor(T * segments) labels. Of each label only its longest runs stay, none
   where it never has two frames in a row; released frames join the longer of the runs beside them. Runs are the spans,
   unless some are given (``--segmenter``).
2. A position is static when the mean cosine over all pairs of different frames of the span is above tau. Static tokens
   are averaged over the span. A span of one frame has none.
3. Static tokens of a span, and the other tokens of every frame, are clustered by DPC-KNN; a cluster becomes its mean.
The number of clusters of a group is its share of the budget. The published code takes floor(size * ratio) clusters of
groups of more than 14 tokens, leaves smaller ones alone, and lists clusters by falling score of their centres, static
ones first: ``official=True``, where ``keep`` is that ratio. Here everything stays in the order of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import allocate, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods.base import Method, Parity
from vidcomp.methods.blocks.builder import ClusterRule, Draft
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.dpc_knn import ranked_peaks

__all__ = ["Prunevid", "contiguous_runs", "frame_labels"]

_SMALL = 14  # groups up to this size are left alone in the published code


@dataclass(frozen=True)
class Prunevid(Method):
    """The ceiling of ``keep * T * N`` tokens, or all that is left after averaging when that is less.

    Attributes:
        tau: mean cosine above which a position is static.
        segments: labels per frame, in (0, 1].
        k: neighbours of the density when tokens are clustered.
        frame_k: the same when frames are clustered.
        official: counts and order as in the published code.
    """

    tau: float = 0.8
    segments: float = 0.25
    k: int = 7
    frame_k: int = 7
    official: bool = False

    name: ClassVar[str] = "prunevid"
    summary: ClassVar[str] = "averages what stays the same within a scene, and clusters that and each frame's rest"
    source: ClassVar[Source] = Source(
        "PruneVid", "Findings of ACL 2025", "2412.16117", "https://github.com/Visual-AI/PruneVid"
    )
    inner: ClassVar[str | None] = "prunevid"
    span_rule: ClassVar[str] = "gain"
    rule: ClassVar[str] = "averages positions that stay the same"
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true, where keep is the cluster ratio (published: 0.5)"
    differs: ClassVar[str] = "takes keep for the share of the tokens that survive"

    def __post_init__(self) -> None:
        if self.tau != self.tau:
            raise ValueError("tau must be a number")
        if not 0 < self.segments <= 1:
            raise ValueError(f"segments must be in (0, 1], got {self.segments}")
        for name in ("k", "frame_k"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Merge within spans and frames.

        Raises:
            ValueError: keep outside (0, 1].
        """
        budget = token_budget(view.total, keep)
        features = view.features.detach()
        runs = [(span.start, len(span)) for span in view.spans] or self._runs(features)
        static = np.stack([_static(features[first : first + size], self.tau) for first, size in runs])
        spans = tuple(
            Span(first, first + size - 1, int(row.sum())) for (first, size), row in zip(runs, static, strict=True)
        )
        lengths = [len(span) for span in spans]
        merged, rest = static.sum(axis=1), (~static).sum(axis=1).repeat(lengths)
        counts = self._counts(np.concatenate([merged, rest]), budget, keep)
        draft = Draft(features, ClusterRule(self.k, None, capped=False, ranked=_SMALL if self.official else None))
        draft.merge_spans(spans, static, counts[: len(spans)])
        draft.merge_frames(draft.put((~static).repeat(lengths, axis=0)), rest, counts[len(spans) :])
        reduction = draft.finish(spans)
        return reduction if self.official else reduction.in_raster_order()

    def _runs(self, features: Tensor) -> list[tuple[int, int]]:
        labels = frame_labels(features.float().mean(dim=1), self.segments, self.frame_k)
        return contiguous_runs(labels)[1]

    def _counts(self, sizes: NDArray[np.int64], budget: int, keep: float) -> NDArray[np.int64]:
        """Clusters of each group."""
        if self.official:
            clusters = np.minimum(np.maximum(1, (sizes * keep).astype(np.int64)), sizes)
            return np.where(sizes > _SMALL, clusters, sizes)
        return allocate(sizes.astype(np.float64), min(budget, int(sizes.sum())), sizes)


def frame_labels(means: Tensor, segments: float, k: int) -> list[int]:
    """Cluster frames by their means [T, D]; labels are numbered by falling score of their centres."""
    count = max(1, int(len(means) * segments))
    sizes, counts = (torch.tensor([number], device=means.device) for number in (len(means), count))
    owner, rank = ranked_peaks((means - means[:1])[None], sizes, counts, k, capped=False)
    labels: list[int] = rank[0][owner[0]].tolist()
    return labels


def contiguous_runs(labels: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Labels after every label but its longest runs was released, and the runs as (first frame, length)."""
    runs = _runs(labels)
    longest = {label: max(size for other, _, size in runs if other == label) for label, _, _ in runs}
    left: list[int | None] = list(labels)
    for label, first, size in runs:
        if longest[label] == 1 or size < longest[label]:
            left[first : first + size] = [None] * size
    released = [(first, size) for label, first, size in _runs(left) if label is None]
    for first, size in released:
        left[first : first + size] = [_label_beside(left, first, first + size)] * size
    refined = [label or 0 for label in left]
    return refined, [(first, size) for _, first, size in _runs(refined)]


def _label_beside(labels: Sequence[int | None], first: int, end: int) -> int | None:
    """The label of the longer run beside the gap, as things stand; the left one of equals, 0 without neighbours."""
    before, after = _runs(labels[:first])[-1:], _runs(labels[end:])[:1]
    if not before and not after:
        return 0
    return max(before + after, key=lambda run: run[2])[0]


def _runs(labels: Sequence[int | None]) -> list[tuple[int | None, int, int]]:
    """(label, first, length) of each maximal run."""
    found, first = [], 0
    for label, group in groupby(labels):
        size = len(list(group))
        found.append((label, first, size))
        first += size
    return found


def _static(block: Tensor, tau: float) -> NDArray[np.bool_]:
    """[N] bool for frames [W, N, D]: the mean cosine over all pairs of different frames is above tau."""
    frames = len(block)
    if frames == 1:
        return np.zeros(block.shape[1], dtype=np.bool_)
    total = torch.zeros(block.shape[1:], device=block.device)
    for frame in block:
        total += unit_rows(frame)
    mean = (total.square().sum(dim=1) - frames) / (frames * (frames - 1))
    found: NDArray[np.bool_] = (mean > tau).cpu().numpy()
    return found
