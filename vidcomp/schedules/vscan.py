# SPDX-License-Identifier: Apache-2.0
"""VScan's inner stage: one drop in the middle of the language model.

Source: "VScan", TMLR 2026, arXiv 2505.22654, https://github.com/Tencent/SelfEvolvingAgent (VScan/).
Needs: the attention of the last row that layer k is about to compute.
In plain words: as PyramidDrop, at a single layer; layer 16 of 32 keeping a third (96 in, 32 after) on LLaVA, layer 14
of 28 keeping 0.333 on Qwen2.5-VL. The published Qwen port ranks without rotation, which is not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_choice, check_share
from vidcomp.schedules.base import layer_within, scaled_layer
from vidcomp.schedules.blocks.ranked import Ranked

__all__ = ["VScanInner"]

_LAYER, _DEPTH = 16, 32  # published; 14 of 28 is the same relative depth


@dataclass(frozen=True)
class VScanInner(Ranked):
    """Keep the share ``keep`` of the visual rows, truncated, before layer ``k``; None takes half the depth."""

    k: int | None = None
    keep: float = 0.333
    positions: str = "keep"

    name: ClassVar[str] = "vscan"
    summary: ClassVar[str] = "one drop at half the depth, ranked by what the last row is about to look at"
    source: ClassVar[str] = "VScan, TMLR 2026, arXiv 2505.22654, https://github.com/Tencent/SelfEvolvingAgent"

    def __post_init__(self) -> None:
        if self.k is not None:
            layer_within("k", self.k, self.k + 1)
        check_share("keep", self.keep)
        check_choice("positions", self.positions, ("keep", "compact"))

    @property
    def renumbers(self) -> bool:
        """Only with ``positions=compact``."""
        return self.positions == "compact"

    @property
    def back(self) -> int:
        """The layer that is about to run ranks."""
        return 0

    def plan(self, depth: int) -> dict[int, float]:
        """One layer."""
        k = scaled_layer(_LAYER, _DEPTH, depth) if self.k is None else layer_within("k", self.k, depth)
        return {k: self.keep}

    def count(self, total: int, share: float) -> int:
        """Truncated, as PyramidDrop does."""
        return int(total * share)
