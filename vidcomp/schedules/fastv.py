# SPDX-License-Identifier: Apache-2.0
"""FastV: drop the least attended visual rows once, in an early layer.

Paper: "An Image is Worth 1/2 Tokens After Layer 2".
Needs: attention of the last row in layer k - 1.
In plain words: after k layers, rank the visual rows by the attention that the last row of the prompt pays to them, mean
over heads, and keep the share ``keep`` of them in order, at their old positions. Three released variants round the
number differently; this is ``round(V * keep)``, at least 1. The paper's text speaks of attention from all rows, its
code uses the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import check_layer, layer_within
from vidcomp.schedules.blocks.ranked import Ranked

__all__ = ["FastV"]


@dataclass(frozen=True)
class FastV(Ranked):
    """Keep the share ``keep`` of the visual rows before layer ``k``."""

    k: int = 2
    keep: float = 0.5

    name: ClassVar[str] = "fastv"
    summary: ClassVar[str] = "keeps the visual rows that the last row looks at most, once, after k layers"
    source: ClassVar[Source] = Source("FastV", "ECCV 2024", "2403.06764", "https://github.com/pkunlp-icler/FastV")

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("keep", self.keep)

    def plan(self, depth: int) -> dict[int, float]:
        """One layer."""
        return {layer_within("k", self.k, depth): self.keep}
