# SPDX-License-Identifier: Apache-2.0
"""AIM's inner stages: drop visual rows layer by layer, by a page rank over the attention, until none is left.

Paper: "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning".
Needs: the whole attention map of every layer from ``start`` on, walked in blocks.
In plain words: sharpen the attention (temperature ``tau``), start with equal weight on every row, follow the map
``iterations`` steps, take the root mean square over heads. After layer i keep the share 1 - (i - start + 1) /
(end - start) of the first number of visual rows, floored, the most important ones; text always stays.
The published code masks rows and goes on computing them, so that they still vote in later layers; here they leave, so
later choices can differ. It also computes the map where nothing is decided; here only where rows leave.
Cost: ``iterations`` passes over heads * S * S scores per stage, in blocks of 32 MB; nothing smaller is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from vidcomp.core.budget import guarded_floor
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.schedules.base import Cut, Schedule, best_rows, every_row, layer_within, own_layer, scaled_layer
from vidcomp.schedules.blocks.scoring import page_rank
from vidcomp.schedules.state import Stage

__all__ = ["AimInner", "shares_after"]

_START, _END, _DEPTH = 14, 22, 28  # published


@dataclass(frozen=True)
class AimInner(Schedule):
    """Drop from layer ``start`` on; none is left from layer ``end`` on. None takes the published relative depths.

    Attributes:
        start, end: first layer that drops, and the layer from which none is left.
        tau: temperature that sharpens the attention.
        iterations: of the page rank.
    """

    start: int | None = None
    end: int | None = None
    tau: float = 0.1
    iterations: int = 5

    name: ClassVar[str] = "aim"
    summary: ClassVar[str] = "drops layer by layer by a page rank of the attention, down to none"
    source: ClassVar[Source] = Source("AIM", "ICCV 2025", "2412.03248", "https://github.com/LaVi-Lab/AIM")
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if getattr(self, name) is not None:
                layer_within(name, getattr(self, name), getattr(self, name) + 1)
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"end must be above start, got {self.start} and {self.end}")
        if self.tau <= 0 or self.iterations < 1:
            raise ValueError(f"tau must be above 0 and iterations at least 1, got {self.tau} and {self.iterations}")

    def plan(self, depth: int) -> Mapping[int, float]:
        """Layer before which rows leave -> share of the first number that stays."""
        start = own_layer("start", self.start, _START, _DEPTH, depth)
        end = max(start + 1, scaled_layer(_END, _DEPTH, depth)) if self.end is None else self.end
        if not start < end <= depth:
            raise ValueError(f"start={start} and end={end} do not fit a decoder of {depth} layers")
        shares = shares_after(start, end, depth)
        return {i + 1: shares[i] for i in range(start, min(end, depth - 1))}

    def layers(self, depth: int) -> tuple[int, ...]:
        """Every layer from start + 1 to end."""
        return tuple(sorted(self.plan(depth)))

    def reduce(self, stage: Stage) -> Cut:
        """Keep the most important rows."""
        count = guarded_floor(stage.total * self.plan(stage.depth)[stage.layer])
        if count == 0:
            return Cut(every_row(stage.hidden)[:, :0])
        attention, size = stage.attention(), stage.rows.shape[1]
        every = every_row(stage.rows)
        walk = partial(attention.blocks, every, self.tau)
        return Cut(best_rows(stage.of_visual(page_rank(walk, size, self.iterations)), count))


def shares_after(start: int, end: int, depth: int) -> list[float]:
    """Share of the visual rows left after each layer: 1 before ``start``, 0 from ``end`` - 1 on, linear between."""
    return [1.0 if i < start else max(0.0, 1 - (i - start + 1) / (end - start)) for i in range(depth)]
