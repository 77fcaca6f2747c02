# SPDX-License-Identifier: Apache-2.0
"""Schedules that only drop: at some layers the rows that the last row of the prompt looks at most stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vidcomp.schedules.base import Cut, Schedule, best_rows
from vidcomp.schedules.state import Stage

__all__ = ["Ranked", "RankedAhead"]


class Ranked(Schedule):
    """Base of these schedules: ``plan`` says how many rows stay.

    Attributes:
        back: 1 ranks by the attention of the layer before, 0 by what the layer is about to compute.
    """

    back: ClassVar[int] = 1

    def plan(self, depth: int) -> Mapping[int, float]:
        """Layer -> share of the visual rows of layer 0 that stays from there on.

        Raises:
            ValueError: the decoder has no such layer.
        """
        raise NotImplementedError

    def count(self, total: int, share: float) -> int:
        """Number of rows that a share of ``total`` is; halves go to the even number."""
        return round(total * share)

    def layers(self, depth: int) -> tuple[int, ...]:
        """The layers of the plan."""
        return tuple(sorted(self.plan(depth)))

    def reduce(self, stage: Stage) -> Cut:
        """Keep the planned number of rows, at least 1."""
        count = max(1, self.count(stage.total, self.plan(stage.depth)[stage.layer]))
        return Cut(best_rows(stage.looked_at(self.back), count))


class RankedAhead(Ranked):
    """Those that rank by what the layer is about to compute; shares are truncated, as PyramidDrop does."""

    back: ClassVar[int] = 0

    def count(self, total: int, share: float) -> int:
        """Truncated."""
        return int(total * share)
