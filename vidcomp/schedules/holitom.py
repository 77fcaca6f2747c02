# SPDX-License-Identifier: Apache-2.0
"""HoliTom's inner stage: halve the visual rows once, merging each dropped row into its most similar kept row.

Paper: "HoliTom: Holistic Token Merging for Fast Video Large Language Models".
Needs: attention of the last row in layer k - 1; hidden states entering layer k.
In plain words: keep the share 1 - r of the visual rows that the last row looks at most; every other row goes to the
kept row with the largest cosine similarity; in ascending order each one moves its target half-way towards itself. The
published code lets layer k - 1 run without causal masking to obtain its attention; here only the one needed row is
computed, so layer k - 1 stays what the stock model computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, Schedule, own_layer
from vidcomp.schedules.blocks.merge import halving_merge
from vidcomp.schedules.state import Stage

__all__ = ["HolitomInner"]

_LAYER, _DEPTH = 18, 28  # published


@dataclass(frozen=True)
class HolitomInner(Schedule):
    """Merge the share ``r`` of the visual rows before layer ``k``.

    ``k`` None takes the paper's relative depth, layer 18 of 28: ``round(18 / 28 * depth)``.
    """

    k: int | None = None
    r: float = 0.5

    name: ClassVar[str] = "holitom"
    summary: ClassVar[str] = "halves the visual rows once, folding each dropped row into its most similar kept row"
    source: ClassVar[Source] = Source("HoliTom", "NeurIPS 2025", "2505.21334", "https://github.com/cokeshao/HoliTom")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if self.k is not None and (not isinstance(self.k, int) or self.k < 1):
            raise ValueError(f"k must be a whole number of at least 1 (layer 0 is the outer stage), got {self.k}")
        check_share("r", self.r)
        if self.r == 1:
            raise ValueError("r must be below 1: some rows have to stay")

    def layers(self, depth: int) -> tuple[int, ...]:
        """The one layer before which rows are merged."""
        return (own_layer("k", self.k, _LAYER, _DEPTH, depth),)

    def reduce(self, stage: Stage) -> Cut:
        """Keep round(V * (1 - r)) rows, at least 1."""
        return Cut(*halving_merge(stage.hidden, stage.looked_at(), self.r))
