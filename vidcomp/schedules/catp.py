# SPDX-License-Identifier: Apache-2.0
"""CATP's inner stages: rows whose attention from the question grows between two early layers.

Paper: "Contextually Adaptive Token Pruning".
Needs: attention of the last row in layers k - 1 and k - 2; hidden states entering layers k and k + 1.
In plain words: the method was made for demonstrations (pictures with text) before a question about one more picture.
Before layer k the context rows are ranked together by how much more the last row looks at them than one layer earlier,
plus ``weight`` times their cosine with the mean hidden state of the question. Before layer k + 1 the rows of the
question's own picture are ranked by their cosine with the mean of the context rows that are left.
Our reading: the context is the video, the question is the text behind it, and the picture of the question is the last
``query_frames`` frames (0: there is none, and one stage is all there is). Both stages keep the share ``keep``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import Cut, Schedule, best_rows, check_layer, layer_within, scaled_layer
from vidcomp.schedules.blocks.rows import take_rows
from vidcomp.schedules.state import Stage

__all__ = ["CatpInner"]

_LAYER, _DEPTH = 6, 32  # published


@dataclass(frozen=True)
class CatpInner(Schedule):
    """Keep the share ``keep`` before layer ``k``, at least 2; None takes the published relative depth, 6 of 32.

    Attributes:
        k: layer before which rows leave.
        keep: share that stays.
        weight: of the growth of attention against its level.
        query_frames: frames whose rows count as part of the question.
    """

    k: int | None = None
    keep: float = 0.5
    weight: float = 0.6
    query_frames: int = 0

    name: ClassVar[str] = "catp"
    summary: ClassVar[str] = "keeps rows that the question looks at more from one early layer to the next"
    source: ClassVar[Source] = Source("CATP", "AAAI 2026", "2508.07871")

    def __post_init__(self) -> None:
        check_layer("k", self.k, least=2)
        check_share("keep", self.keep)
        check_share("weight", self.weight, high=10)
        if isinstance(self.query_frames, bool) or not isinstance(self.query_frames, int) or self.query_frames < 0:
            raise ValueError(f"query_frames must be a whole number of at least 0, got {self.query_frames!r}")

    def _first(self, depth: int) -> int:
        k = max(2, scaled_layer(_LAYER, _DEPTH, depth)) if self.k is None else self.k
        return layer_within("k", k, depth, least=2)

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layer k, and the one behind it when frames belong to the question."""
        first = self._first(depth)
        return (first, layer_within("k", first + 1, depth)) if self.query_frames else (first,)

    def watched(self, depth: int) -> frozenset[int]:
        """The two layers before k."""
        first = self._first(depth)
        return frozenset({first - 2, first - 1})

    def reduce(self, stage: Stage) -> Cut:
        """Rank the context at k and the question's frames at k + 1; the other group is left alone."""
        of_query = self._of_query(stage)
        if stage.layer == self._first(stage.depth):
            growth = (stage.looked_at(1) - stage.looked_at(2)).clamp(min=0)
            question = take_rows(stage.rows, stage.question).float().mean(1, keepdim=True)
            return self._kept(growth + self.weight * _cosine(stage.hidden, question), ~of_query)
        context = (stage.hidden.float() * ~of_query[..., None]).sum(1, keepdim=True)
        return self._kept(_cosine(stage.hidden, context), of_query)

    def _of_query(self, stage: Stage) -> Tensor:
        """Mark the rows of the question's own frames: [B, V] bool."""
        if not self.query_frames:
            return torch.zeros_like(stage.origin, dtype=torch.bool)
        frame = stage.fact("frame")
        return frame > stage.facts["frame"].max() - self.query_frames

    def _kept(self, scores: Tensor, ranked: Tensor) -> Cut:
        """Keep the share of the ranked rows, at least one, and all others."""
        count = int(ranked[0].sum())
        drop = count - max(1, round(count * self.keep)) if count else 0
        return Cut(best_rows(scores.masked_fill(~ranked, torch.inf), scores.shape[1] - drop))


def _cosine(rows: Tensor, one: Tensor) -> Tensor:
    """Cosine of each row [B, V, D] with one vector [B, 1, D], in float32: [B, V]."""
    return torch.nn.functional.cosine_similarity(rows.float(), one.float(), dim=-1)
