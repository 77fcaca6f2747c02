# SPDX-License-Identifier: Apache-2.0
"""VisionDrop's inner stages: visual rows ranked by other visual rows, the rest folded into a few of them.

Paper: "Rethinking Visual Token Reduction in LVLMs under Cross-Modal Misalignment".
Needs: the attention that the stage's own layer is about to compute, its visual rows only.
In plain words: a row's score is the mean attention that it gets from the visual rows. The best stay as they are. Of the
others, taken at equal steps, a few become targets; each remaining row joins the target whose rotated key, mean over
heads, points the same way, and a target becomes the mean of itself and its members.
Our reading where the published code has a defect: the causal mask lets early rows be seen by more rows, so a score is
divided by the number of rows that can see it (``official=true`` does not); the published sum doubles the length of
merged rows (``official=true`` sums). Rows keep their order and places here; the published code puts merged rows last
and renumbers.
Cost: one pass over heads * V * S scores per stage, in blocks of 32 MB.
Published are counts for an average of 32 tokens: 48 in, then 30 + 5, 22 + 4 and 16 + 3 after layers 8, 16 and 24 of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_choice, check_share, listed
from vidcomp.core.source import Source
from vidcomp.schedules.base import Cut, Schedule, best_rows, placed, stage_shares
from vidcomp.schedules.blocks.merge import dropped_rows, mean_merge
from vidcomp.schedules.blocks.rows import take_rows
from vidcomp.schedules.state import Stage

__all__ = ["VisionDropInner"]

_LAYERS, _DEPTH = (8, 16, 24), 32  # published


@dataclass(frozen=True)
class VisionDropInner(Schedule):
    """Keep ``keep[i]`` of the first number of rows before layer ``at[i]``, the share ``contextual`` of them merged.

    Attributes:
        at: layers; None for the published ones.
        keep: shares of the first number of rows.
        contextual: share of the kept rows that is merged from the rest.
        positions: ``keep`` leaves position ids, ``compact`` renumbers them.
        official: score and merge as the published code does.
    """

    at: str | int | tuple[int, ...] | None = None
    keep: str | float | tuple[float, ...] = (35 / 48, 26 / 48, 19 / 48)
    contextual: float = 0.15
    positions: str = "keep"
    official: bool = False

    name: ClassVar[str] = "visiondrop"
    summary: ClassVar[str] = "drops at several depths, ranked by the attention among visual rows; the rest is merged"
    source: ClassVar[Source] = Source("VisionDrop", "AAAI 2026", "2506.22283", "https://github.com/Ruixxxx/VisionDrop")
    attends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        object.__setattr__(self, "at", listed("at", self.at, int))
        object.__setattr__(self, "keep", shares)
        check_share("contextual", self.contextual)
        check_choice("positions", self.positions, ("keep", "compact"))

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer per share."""
        return tuple(sorted(placed(listed("at", self.at, int), _LAYERS, _DEPTH, depth)))

    def reduce(self, stage: Stage) -> Cut:
        """Keep round(V0 * keep) rows, at least 1; round(contextual) of them are merged ones."""
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        number = placed(listed("at", self.at, int), _LAYERS, _DEPTH, stage.depth)[stage.layer]
        count = min(stage.count, max(1, round(stage.total * shares[number])))
        attention = stage.attention(0)
        scores = stage.of_visual(attention.received(stage.visual, per_viewer=not self.official))
        dominant = best_rows(scores, count - min(count - 1, round(count * self.contextual)))
        keys = take_rows(attention.mean_keys, stage.visual)
        return contextual_merge(stage.hidden, keys, dominant, count - dominant.shape[1], self.official)


def contextual_merge(hidden: Tensor, keys: Tensor, dominant: Tensor, targets: int, summed: bool) -> Cut:
    """VisionZip's rule for the rows that are not dominant.

    Args:
        hidden: [B, V, D]; keys: [B, V, k], what is compared.
        dominant: [B, W] int64, ascending.
        targets: C, how many rows the others are folded into.
        summed: add the members' mean to the target, as published, instead of taking the mean of all.
    """
    rest = dropped_rows(dominant, hidden.shape[1])
    targets = min(targets, rest.shape[1])
    if targets == 0:
        return Cut(dominant)
    step = max(1, rest.shape[1] // targets)
    spaced = torch.zeros(rest.shape[1], dtype=torch.bool, device=rest.device)
    spaced[torch.arange(targets, device=rest.device) * step] = True
    into, members = rest[:, spaced], rest[:, ~spaced]
    unit = torch.nn.functional.normalize(keys, dim=-1)
    target = (take_rows(unit, members) @ take_rows(unit, into).transpose(1, 2)).argmax(-1)
    merged = mean_merge(hidden, into, members, target, summed)
    order = torch.cat([dominant, into], 1).argsort(1)
    rows = torch.cat([take_rows(hidden, dominant), merged], 1)
    return Cut(torch.cat([dominant, into], 1).gather(1, order), take_rows(rows, order))
