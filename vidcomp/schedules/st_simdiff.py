# SPDX-License-Identifier: Apache-2.0
"""ST-SimDiff's inner stage: what the graph before the language model left too much is dropped by attention.

Needs: attention of the last row in layer 1.
In plain words: layer 0 ran on the share of the visual rows that the outer stage kept; from layer 1 on as many stay that
the mean length over all layers is ``cost`` of the uncompressed video. The rows that the last row looks at least go. The
published code drops between attention and MLP of layer 1; everything there is row-wise, so the rows that stay are the
same when the others go before layer 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, Schedule, best_rows
from vidcomp.schedules.framefusion import required_removal
from vidcomp.schedules.state import Stage

__all__ = ["StSimdiffInner"]


@dataclass(frozen=True)
class StSimdiffInner(Schedule):
    """Drop before layer 2; ``cost``: mean visual rows per layer, as a share of those of the uncompressed video."""

    cost: float = 0.3

    name: ClassVar[str] = "st_simdiff"
    summary: ClassVar[str] = "one early drop by the last row's attention, as far as the outer stage left too much"
    source: ClassVar[Source] = Source(
        "ST-SimDiff", "ICLR 2026", "2605.22158", "https://github.com/bingjunluo/ST-SimDiff"
    )
    parity: ClassVar[Parity] = "goldens"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share("cost", self.cost)

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer."""
        return (min(2, depth - 1),)

    def reduce(self, stage: Stage) -> Cut:
        """Keep what the cost leaves, at least one row."""
        removed = 1 - stage.total / stage.uncompressed
        share = 1 - required_removal([removed], stage.depth, self.cost)
        return Cut(best_rows(stage.looked_at(), max(1, round(stage.count * share))))
