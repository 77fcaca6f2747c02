# SPDX-License-Identifier: Apache-2.0
"""PyramidDrop: several drops at increasing depth.

Needs: the attention of the last row that the stage's own layer is about to compute.
In plain words: all visual rows in the early layers, then half, a quarter and an eighth of the first number, truncated,
ranked before each drop by the last row of the prompt with the next layer's norm, projections and rotation.
The published code renumbers positions after every drop; the default here keeps them, which changes no distance between
a row and the text, and ``positions=compact`` renumbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_choice, listed
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import placed, stage_shares
from vidcomp.schedules.blocks.ranked import RankedAhead

__all__ = ["PyramidDrop"]

_LAYERS, _DEPTH = (8, 16, 24), 32  # published


@dataclass(frozen=True)
class PyramidDrop(RankedAhead):
    """Keep ``keep[i]`` of the first number of visual rows before layer ``at[i]``.

    ``at`` None takes the published relative depths, 8, 16 and 24 of 32; in a decoder so shallow that some fall
    together, the last of them counts.

    Attributes:
        at: layers; None for the published ones.
        keep: shares of the first number of rows, not growing.
        positions: ``keep`` leaves position ids, ``compact`` renumbers them.
    """

    at: str | int | tuple[int, ...] | None = None
    keep: str | float | tuple[float, ...] = (0.5, 0.25, 0.125)
    positions: str = "keep"

    name: ClassVar[str] = "pyramiddrop"
    summary: ClassVar[str] = "drops at several depths, ranked by what the last row is about to look at"
    source: ClassVar[Source] = Source(
        "PyramidDrop", "CVPR 2025", "2410.17247", "https://github.com/Cooperx521/PyramidDrop"
    )
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        check_choice("positions", self.positions, ("keep", "compact"))
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        object.__setattr__(self, "at", listed("at", self.at, int))
        object.__setattr__(self, "keep", shares)
        if list(shares) != sorted(shares, reverse=True):
            raise ValueError(f"keep counts from the first number of rows and cannot grow, got {shares}")

    def plan(self, depth: int) -> dict[int, float]:
        """One layer per share."""
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        return {layer: shares[i] for layer, i in placed(listed("at", self.at, int), _LAYERS, _DEPTH, depth).items()}
