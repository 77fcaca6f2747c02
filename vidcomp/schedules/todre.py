# SPDX-License-Identifier: Apache-2.0
"""ToDRE's second stage: all visual rows leave once text and picture no longer look at each other.

Needs: the attention in layer k - 1 of the text rows behind the video and of the visual rows.
In plain words: at seven eighths of the depth, take the share of their attention that text rows spend on visual keys,
and the share that visual rows spend on text keys, mean over heads and rows. If both are below ``tau``, every visual row
leaves for the remaining layers and the whole answer.
Our reading: the text rows are those behind the video, the text keys of the visual rows are those before it.
``adaptive=false`` removes without asking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import Cut, Schedule, check_layer, every_row, own_layer
from vidcomp.schedules.state import Stage

__all__ = ["ToDREInner"]

_LAYER, _DEPTH = 28, 32  # published: 7/8 of the depth


@dataclass(frozen=True)
class ToDREInner(Schedule):
    """Remove all visual rows before layer ``k``; None takes the published relative depth, 7/8.

    Attributes:
        k: layer before which they leave.
        tau: share of attention below which text and picture hardly look at each other.
        adaptive: remove only where that is so; otherwise always.
    """

    k: int | None = None
    tau: float = 0.1
    adaptive: bool = True

    name: ClassVar[str] = "todre"
    summary: ClassVar[str] = "removes all visual rows late, when text and picture hardly look at each other"
    source: ClassVar[Source] = Source("ToDRE", arxiv="2505.18757v2")
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_layer("k", self.k)
        check_share("tau", self.tau)

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer."""
        return (own_layer("k", self.k, _LAYER, _DEPTH, depth),)

    def reduce(self, stage: Stage) -> Cut:
        """Nothing or everything; all sequences of a batch together."""
        every = every_row(stage.hidden)
        return Cut(every[:, :0] if not self.adaptive or self.faded(stage) else every)

    def faded(self, stage: Stage) -> bool:
        """True where both shares of attention are below ``tau``."""
        attention = stage.attention()
        to_vision = attention.mass(stage.question, ~stage.text)
        to_text = attention.mass(stage.visual, stage.text)
        return bool((to_vision < self.tau).all() and (to_text < self.tau).all())
