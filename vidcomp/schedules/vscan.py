# SPDX-License-Identifier: Apache-2.0
"""VScan's inner stage: one drop in the middle of the language model.

Needs: the attention of the last row that layer k is about to compute.
In plain words: as PyramidDrop, at a single layer; layer 16 of 32 keeping a third (96 in, 32 after) on LLaVA, layer 14
of 28 keeping 0.333 on Qwen2.5-VL. The published Qwen port ranks without rotation, which is not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_choice, check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import check_layer, own_layer
from vidcomp.schedules.blocks.ranked import RankedAhead

__all__ = ["VScanInner"]

_LAYER, _DEPTH = 16, 32  # published; 14 of 28 is the same relative depth


@dataclass(frozen=True)
class VScanInner(RankedAhead):
    """Keep the share ``keep`` of the visual rows, truncated, before layer ``k``; None takes half the depth.

    Attributes:
        k: layer before which rows leave.
        keep: share that stays.
        positions: ``keep`` leaves position ids, ``compact`` renumbers them.
    """

    k: int | None = None
    keep: float = 0.333
    positions: str = "keep"

    name: ClassVar[str] = "vscan"
    summary: ClassVar[str] = "one drop at half the depth, ranked by what the last row is about to look at"
    source: ClassVar[Source] = Source(
        "VScan", "TMLR 2026", "2505.22654", "https://github.com/Tencent/SelfEvolvingAgent", note="in its folder VScan/"
    )

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("keep", self.keep)
        check_choice("positions", self.positions, ("keep", "compact"))

    def plan(self, depth: int) -> dict[int, float]:
        """One layer."""
        k = own_layer("k", self.k, _LAYER, _DEPTH, depth)
        return {k: self.keep}
