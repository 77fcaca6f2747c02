# SPDX-License-Identifier: Apache-2.0
"""PruneVid's inner stage: in every scene, the rows that some word of the question looks at most.

Paper: "PruneVid: Visual Token Pruning for Efficient Video Large Language Models".
Needs: queries and keys of layer k - 1 for the rows of text behind the video; span and frame of every visual row.
In plain words: behind one layer, compare text rows with all rows by their queries and keys as they are before rotation
and without hiding what comes later. A visual row's score is the largest attention of any text row in any head. Of the
rows that stand for several frames of a span, and of the other rows of every frame, the share ``alpha`` with the largest
scores stays, rounded down, in order and at its positions.
Differences: the published code also cuts the keys of the layers before, which saves memory while the answer is written;
here those layers keep theirs. If every group rounds down to nothing the one best row stays. Separators always stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, Schedule, check_layer, own_layer
from vidcomp.schedules.blocks.scoring import Attention
from vidcomp.schedules.state import Stage

__all__ = ["PruneVidInner", "best_of_groups"]

_LAYER, _DEPTH = 11, 32  # published: after layer 10, counted from 0, of PLLaVA-7B


@dataclass(frozen=True)
class PruneVidInner(Schedule):
    """Keep the share ``alpha`` of every group before layer ``k``; None takes the published relative depth, 11 of 32."""

    k: int | None = None
    alpha: float = 0.4

    name: ClassVar[str] = "prunevid"
    summary: ClassVar[str] = "in every scene and frame, keeps the rows that some word of the question looks at most"
    source: ClassVar[Source] = Source(
        "PruneVid", "Findings of ACL 2025", "2412.16117", "https://github.com/Visual-AI/PruneVid"
    )
    parity: ClassVar[Parity] = "goldens"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("alpha", self.alpha)

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer."""
        return (own_layer("k", self.k, _LAYER, _DEPTH, depth),)

    def reduce(self, stage: Stage) -> Cut:
        """Decide on the first sequence, for all."""
        frame, span, still = (stage.fact(name)[0] for name in ("frame", "span", "still"))
        group = torch.where(still > 0, span, span.max() + 1 + frame)
        scores = stage.of_visual(strongest_anywhere(stage.attention(), stage.question))[0]
        patch = frame >= 0
        kept = best_of_groups(scores, torch.where(patch, group, -1), self.alpha) & patch
        if not bool(kept.any()):
            kept[scores.masked_fill(~patch, -torch.inf).argmax()] = True
        return Cut((kept | ~patch).nonzero()[:, 0].expand(len(stage.rows), -1))


def strongest_anywhere(attention: Attention, rows: Tensor) -> Tensor:
    """The largest attention of any of the rows [B, Q], in any head, without rotation and without hiding: [B, L]."""
    source = attention.source.unrotated()
    plain = Attention(source, source.keys(), causal=False)
    return torch.stack([weights.amax((1, 2)) for _, weights in plain.blocks(rows)]).amax(0)


def best_of_groups(scores: Tensor, group: Tensor, share: float) -> Tensor:
    """Mark the best of every group, the share of its size rounded down; ties to the lower index.

    Args:
        scores: [V]; group: [V] int64, any numbers.
        share: in 0..1.

    Returns:
        [V] bool.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]  # group by group, best first
    listed = group[order].contiguous()
    first, after = (torch.searchsorted(listed, listed, right=right) for right in (False, True))
    rank = torch.arange(order.numel(), device=order.device) - first
    limit = ((after - first) * share + 1e-9).floor()
    return torch.zeros_like(group, dtype=torch.bool).scatter_(0, order, rank < limit)
