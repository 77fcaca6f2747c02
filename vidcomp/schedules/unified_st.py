# SPDX-License-Identifier: Apache-2.0
"""The inner stage of unified spatiotemporal compression: rows that text attends to or resembles stay, others merge.

Paper: "Unified Spatiotemporal Token Compression for Video-LLMs at Ultra-Low Retention".
Read from secondary notes.
Needs: attention in layer k - 1 of the text rows behind the video; hidden states entering layer k.
In plain words: a visual row's importance is a blend of the strongest attention that any text row pays to it and its
largest cosine with any text row, each scaled to 0..1 over the visual rows. The most important rows stay in order; every
other one joins the kept row that it resembles most.
Our reading where the notes are silent: attention is the mean over heads, the scaling is min-max, text rows are those
behind the video (only they can see it), a merged row is the plain mean of all its members, positions stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import Cut, Schedule, best_rows, check_layer, own_layer
from vidcomp.schedules.blocks.merge import dropped_rows, mean_merge, most_similar
from vidcomp.schedules.blocks.rows import take_rows
from vidcomp.schedules.state import Stage

__all__ = ["UnifiedInner"]

_LAYER, _DEPTH = 18, 28  # published


@dataclass(frozen=True)
class UnifiedInner(Schedule):
    """Keep round(V * keep) rows before layer ``k``; ``blend`` is the weight of similarity against attention."""

    k: int | None = None
    keep: float = 0.5
    blend: float = 0.5

    name: ClassVar[str] = "unified_st"
    summary: ClassVar[str] = "keeps rows that text attends to or resembles, and merges each other row into one of them"
    source: ClassVar[Source] = Source("Unified spatiotemporal compression", "CVPR 2026", "2603.21957")

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("keep", self.keep)
        check_share("blend", self.blend)

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer."""
        return (own_layer("k", self.k, _LAYER, _DEPTH, depth),)

    def reduce(self, stage: Stage) -> Cut:
        """Rank, keep, merge."""
        strongest = stage.of_visual(stage.attention().strongest(stage.question))
        alike = largest_cosine(stage.hidden, take_rows(stage.rows, stage.question))
        importance = (1 - self.blend) * _scaled(strongest) + self.blend * _scaled(alike)
        kept = best_rows(importance, max(1, round(stage.count * self.keep)))
        dropped = dropped_rows(kept, stage.count)
        target = most_similar(stage.hidden, dropped, kept)
        return Cut(kept, mean_merge(stage.hidden, kept, dropped, target))


def largest_cosine(rows: Tensor, others: Tensor) -> Tensor:
    """For each row [B, V, D] its largest cosine with any of the others [B, A, D], in float32: [B, V]."""
    unit = torch.nn.functional.normalize(others.float(), dim=-1)
    found: Tensor = (torch.nn.functional.normalize(rows.float(), dim=-1) @ unit.transpose(1, 2)).amax(-1)
    return found


def _scaled(values: Tensor) -> Tensor:
    """[B, V] to 0..1 along V; all equal gives 0."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
