# SPDX-License-Identifier: Apache-2.0
"""FlashVID's inner stage: one late drop by the attention of the last row.

Needs: attention of the last row in layer k - 1.
In plain words: as FastV, but late and with the number rounded up. The published pairs are layer 20 of 28 with keep 0.3,
and layer 28 of 36 with keep 0.1; together with 1.25 times the budget before the language model the mean over layers is
the requested ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.budget import guarded_ceil
from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import check_layer, own_layer
from vidcomp.schedules.blocks.ranked import Ranked

__all__ = ["FlashVidInner"]

_LAYER, _DEPTH = 20, 28  # published


@dataclass(frozen=True)
class FlashVidInner(Ranked):
    """Keep ceil(V * keep) visual rows before layer ``k``; None takes the published relative depth, 20 of 28."""

    k: int | None = None
    keep: float = 0.3

    name: ClassVar[str] = "flashvid"
    summary: ClassVar[str] = "one late drop: the visual rows that the last row looks at most stay"
    source: ClassVar[Source] = Source("FlashVID", "ICLR 2026", "2602.08024", "https://github.com/Fanziyang-v/FlashVID")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("keep", self.keep)

    def plan(self, depth: int) -> dict[int, float]:
        """One layer."""
        k = own_layer("k", self.k, _LAYER, _DEPTH, depth)
        return {k: self.keep}

    def count(self, total: int, share: float) -> int:
        """Rounded up."""
        return guarded_ceil(total * share)
