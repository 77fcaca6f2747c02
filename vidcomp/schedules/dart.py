# SPDX-License-Identifier: Apache-2.0
"""DART: a few pivots stay, and whatever resembles them least.

Paper: "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More".
Needs: keys of layer k - 1.
In plain words: the visual rows and the rows of text behind the video with the largest keys (sum of absolute entries,
after the rotation) are pivots. One pivot after the other takes, of the visual rows that are left, those with the
smallest cosine to it. Visual pivots and what was taken stay, at their old positions.
Differences: the number is the share ``keep`` of the rows, with the remainder for the first pivots, and pivots choose in
the order of the sequence; the published code keeps up to a pivot's part more or less and goes through its pivots in the
order of a hash table, which matters, because later ones choose from what is left (``official``). It compares rows after
the decoder's last norm, which a stage cannot see: here they are compared as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.methods.blocks.similarity import cosines
from vidcomp.schedules.base import Cut, Schedule, check_layer, layer_within
from vidcomp.schedules.state import Stage

__all__ = ["Dart", "pivots", "taken"]


@dataclass(frozen=True)
class Dart(Schedule):
    """Keep the share ``keep`` of the visual rows before layer ``k``.

    Attributes:
        k: layer (0-based) before which rows leave.
        keep: share of the visual rows.
        visual: pivots among the visual rows, at least 1.
        text: pivots among the text behind the video; fewer where there is less text.
        official: counts and order of the pivots as in the published code for Qwen.
    """

    k: int = 2
    keep: float = 0.222
    visual: int = 4
    text: int = 4
    official: bool = False

    name: ClassVar[str] = "dart"
    summary: ClassVar[str] = "keeps a few pivots with large keys, and the visual rows that resemble them least"
    source: ClassVar[Source] = Source("DART", "EMNLP 2025", "2502.11494", "https://github.com/ZichenWen1/DART")
    parity: ClassVar[Parity] = "goldens"
    differs: ClassVar[str] = "compares rows before the decoder's last norm, and meets its share exactly"

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("keep", self.keep)
        for name, least in (("visual", 1), ("text", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer."""
        return (layer_within("k", self.k, depth),)

    def reduce(self, stage: Stage) -> Cut:
        """Choose pivots, let them take."""
        size = stage.attention().source.keys().float().abs().sum(dim=(1, 3))  # [B, S]
        budget = max(1, round(stage.count * self.keep))
        own = pivots(stage.of_visual(size), min(self.visual, budget))
        behind = pivots(size.gather(1, stage.question), min(self.text, stage.after))
        kept = []
        for rows, hidden, places, first, second in zip(
            stage.rows, stage.hidden, stage.visual, own, stage.question.gather(1, behind), strict=True
        ):
            order = self._order(places[first].tolist() + second.tolist())
            kept.append(taken(hidden, first, rows[order], self._parts(budget, stage.count, len(first), len(order))))
        return Cut(torch.stack(kept))

    def _order(self, places: list[int]) -> list[int]:
        """Pivots, by their places in the sequence, in the order in which they choose."""
        return list(set(places)) if self.official else sorted(places)

    def _parts(self, budget: int, count: int, own: int, choosing: int) -> list[int]:
        """Number of rows that each pivot takes."""
        if self.official:
            return [int(count * self.keep / choosing)] * choosing
        rest = budget - own
        return [rest // choosing + (number < rest % choosing) for number in range(choosing)]


def pivots(size: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the largest keys of [B, R], largest first, of equals the lower one."""
    return size.argsort(dim=1, descending=True, stable=True)[:, :count]


def taken(rows: Tensor, own: Tensor, choosing: Tensor, parts: Sequence[int]) -> Tensor:
    """The rows that stay: pivots and what they take.

    Args:
        rows: [V, D] visual rows; own: [p] which of them are pivots; choosing: [P, D] all pivots, in their order.
        parts: how many rows each of the P takes.

    Returns:
        Ascending indices.
    """
    table = cosines(choosing, rows)  # [P, V]
    free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    free[own] = False
    for likeness, part in zip(table, parts, strict=True):
        order = likeness.masked_fill(~free, torch.inf).argsort(stable=True)
        free[order[: min(part, int(free.sum()))]] = False
    return (~free).nonzero()[:, 0]
