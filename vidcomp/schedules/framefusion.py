# SPDX-License-Identifier: Apache-2.0
"""FrameFusion's inner form: merge rows that repeat the previous frame, layer after layer, then prune once to the cost.

Paper: "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language Models".
Needs: frame and place of every visual row; attention of the last row, once.
In plain words: at every stage a row that is similar enough to the surviving row of the same place in an earlier frame
joins it; each run of such rows and the row before it become their mean. When the rows that pass the threshold would be
more than the cost asks for, only the most similar are merged and nothing follows; when they become few, one stage later
the rows that the last row looks at least are pruned, so that the mean length over all layers is ``cost``.
Differences: the published code merges between attention and MLP, which hooks on stock layers cannot; here rows leave
before the next layer, so each layer's attention sees one merge less. Its first merge, on the input of layer 0, is the
outer method ``framefusion``. The layer count is the model's, not 28. Only pairs of the same place merge, also when the
budget asks for more than there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.core.tokens import merge_rows
from vidcomp.errors import UsageError
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, Schedule, best_rows
from vidcomp.schedules.state import Stage

__all__ = ["FrameFusionInner", "Merged", "merge_repeats", "required_removal"]


@dataclass(frozen=True)
class FrameFusionInner(Schedule):
    """Parameters as published.

    Attributes:
        cost: mean number of visual rows over all layers, as a share of those of the uncompressed video.
        threshold: cosine from which a row repeats the one before (0.6 LLaVA-Video, 0.5 Qwen2-VL and InternVL2.5).
        least: share of merged rows below which merging ends.
    """

    cost: float = 0.3
    threshold: float = 0.6
    least: float = 0.1

    name: ClassVar[str] = "framefusion"
    summary: ClassVar[str] = "merges rows that repeat the previous frame, layer after layer, then prunes to the cost"
    source: ClassVar[Source] = Source(
        "FrameFusion", "ICCV 2025", "2501.01986", "https://github.com/thu-nics/FrameFusion"
    )
    parity: ClassVar[Parity] = "goldens"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share("cost", self.cost)
        check_share("threshold", self.threshold, low=-1)
        check_share("least", self.least)

    def layers(self, depth: int) -> tuple[int, ...]:
        """All but the first; stages after the end of merging and pruning do nothing."""
        return tuple(range(1, depth))

    def reduce(self, stage: Stage) -> Cut | None:
        """Merge, prune, or nothing; decided on the first sequence of the batch.

        Raises:
            UsageError: the rows that entered layer 0 cost more than all layers may.
        """
        phase = stage.memory.get("phase", "merge")
        if phase == "done":
            return None
        entered = stage.total / stage.uncompressed
        if self.cost * stage.depth <= entered:
            raise UsageError(f"framefusion:cost={self.cost} cannot be met",
                             why=f"layer 0 of {stage.depth} alone costs {entered / stage.depth:.3f}",
                             hint="a larger cost, or a smaller --keep", code="bad_option")  # fmt: skip
        removed = stage.memory.setdefault("removed", [1 - entered])
        wanted = required_removal(removed, stage.depth, self.cost)
        if phase == "prune":
            stage.memory["phase"] = "done"
            return Cut(best_rows(stage.looked_at(), max(1, round(stage.count * (1 - wanted)))))
        merged = merge_repeats(stage.hidden, stage.fact("place")[0], wanted, self.threshold)
        share = 1 - merged.kept.shape[1] / stage.count
        stage.memory["phase"] = "done" if merged.capped else "prune" if share < self.least else "merge"
        removed.append(share)
        return Cut(merged.kept, merged.rows)


@dataclass(frozen=True)
class Merged:
    """Rows after one merge: which stay [B, W], what they become [B, W, D], and whether the budget cut it short.

    Attributes:
        kept: indices of the rows that stay.
        rows: their new values.
        capped: the budget cut the merge short.
    """

    kept: Tensor
    rows: Tensor
    capped: bool


def required_removal(removed: Sequence[float], depth: int, cost: float) -> float:
    """Share of the present rows that has to go so that the mean length over the layers becomes ``cost``.

    Args:
        removed: share removed at each layer so far.
        depth: number of layers.
        cost: wanted mean length, 1 is the first length.

    Returns:
        In 0..1; 1 when the layers so far have used up the whole budget.
    """
    length, used = 1.0, 0.0
    for share in removed:
        length *= 1 - share
        used += length
    left = depth * cost - used
    layers = depth - len(removed)
    if left <= 0 or layers <= 0 or length <= 0:
        return 1.0
    return max(0.0, 1 - left / (layers * length))


def merge_repeats(hidden: Tensor, place: Tensor, wanted: float, threshold: float) -> Merged:
    """Merge runs of rows that are similar to the row before them at the same place.

    Args:
        hidden: [B, V, D], in time order; the first sequence decides for all.
        place: [V] int64, place of each row within its frame, -1 for rows that never merge.
        wanted: largest share of the rows that may go.
        threshold: cosine from which a row merges.
    """
    total = place.numel()
    order = place.argsort(stable=True)  # by place, then in time
    likeness = _likeness(hidden[0, order], place[order])
    merging = likeness >= threshold
    capped = bool(merging.sum() >= wanted * total)
    if capped:
        legal = int((likeness > -2).sum())
        best = likeness.argsort(descending=True, stable=True)[: min(int(wanted * total), legal)]
        merging = torch.zeros_like(merging).index_fill_(0, best, True)
    heads = order[~merging]  # in the order of places
    kept, rank = heads.sort()
    number = torch.empty_like(rank).scatter_(0, rank, torch.arange(rank.numel(), device=rank.device))
    owner = torch.empty_like(order).scatter_(0, order, number[(~merging).cumsum(0) - 1])
    share = 1 / torch.bincount(owner, minlength=kept.numel()).float()
    rows = torch.stack([merge_rows(item, owner, share[owner], kept.numel()) for item in hidden])
    return Merged(kept.expand(len(hidden), -1), rows.to(hidden.dtype), capped)


def _likeness(rows: Tensor, place: Tensor) -> Tensor:
    """Cosine of each row [V, D] with the one before it, in float32, -2 where that is of another place: [V]."""
    found = rows.new_full((len(rows),), -2.0, dtype=torch.float32)
    cosine = torch.nn.functional.cosine_similarity(rows[1:].float(), rows[:-1].float(), dim=-1)
    found[1:] = torch.where((place[1:] == place[:-1]) & (place[1:] >= 0), cosine, found[1:])
    return found
