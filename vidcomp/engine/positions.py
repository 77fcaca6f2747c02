# SPDX-License-Identifier: Apache-2.0
"""Position ids of the rows that the language model reads: the policies of ``--positions``, decided and applied.

``compact`` renumbers the rows without gaps, ``keep`` leaves each survivor where its anchor stood in the full
sequence. ``ppe`` does the same, and lets a merged survivor carry the positions of several of its members at once:
each of :data:`GROUPS` parts of the rotary frequencies turns with the position of another member. Behind a stage inside
the model rows keep their positions, unless the schedule renumbers them.

Source of ``ppe``: "Positional Preservation Embedding for Multimodal Large Language Models", ICLR 2026, arXiv
2510.22936, https://github.com/MouxiaoHuang/PPE. Our reading: members are taken at equal distances in raster order,
while the published code takes arbitrary ones; frequencies are cut into equal parts for rotary embeddings with one
position per row, while the published code does so within each section of a three-part one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.core.tokens import Reduction
from vidcomp.errors import UsageError
from vidcomp.families import Family
from vidcomp.schedules import Schedule

__all__ = ["GROUPS", "PositionPolicy", "position_policy", "spread_members"]

GROUPS = 8  # parts of the rotary frequencies, as published


@dataclass(frozen=True)
class PositionPolicy:
    """Places of survivors: ``name`` is ``compact``, ``keep`` or ``ppe``."""

    name: str

    @property
    def renumbers(self) -> bool:
        """True if rows are numbered without gaps, wherever they stood in the full sequence."""
        return self.name == "compact"

    def ordered(self, reduction: Reduction) -> Reduction:
        """Survivors in the order in which they are read: that of the full sequence where they keep its positions."""
        return reduction.in_raster_order() if self.name in ("keep", "ppe") else reduction

    def members(self, reduction: Reduction) -> Tensor | None:
        """[M, K] members of each survivor whose positions it carries, None for its own position alone."""
        return spread_members(reduction, GROUPS) if self.name == "ppe" else None

    def ids(self, full: Tensor, rows: Tensor) -> Tensor:
        """Position ids [..., S] of the rows at ``rows`` [S], from those of the uncompressed sequence [..., U]."""
        chosen = full[..., rows.to(full.device)]
        return torch.arange(rows.numel(), device=full.device).expand_as(chosen) if self.renumbers else chosen


def position_policy(
    setting: str, family: Family, schedule: Schedule | None = None, counted_elsewhere: bool = False
) -> PositionPolicy:
    """The policy that a setting means for a family, where the schedule allows it.

    Args:
        setting: of ``--positions``; ``auto`` is what the checkpoint asks for, else the family's own.
        family: how its rows are numbered.
        schedule: what runs inside the language model.
        counted_elsewhere: whether the stock model numbers the rows that it writes.

    Raises:
        UsageError: rows of this model, behind this schedule, cannot be numbered so.
    """
    policy = PositionPolicy(family.positions if setting == "auto" else setting)
    inside = schedule is not None and schedule.renumbers
    why = None
    if family.position_axes > 1 and (policy.name == "ppe" or inside):
        why = f"rows have {family.position_axes} rotary axes in {family.model_type} models"
    elif policy.name == "ppe" and inside:
        why = "the inner stage renumbers rows, and renumbered rows have one position each"
    elif policy.name == "ppe" and counted_elsewhere:
        why = "the stock model counts positions by itself"
    if why is None:
        return policy
    if policy.name == "ppe":
        raise UsageError("--positions ppe", why=why, hint="--positions keep", code="bad_option")
    raise UsageError("positions cannot be renumbered inside this model", why=why, hint="positions=keep",
                     code="bad_option")  # fmt: skip


def spread_members(reduction: Reduction, count: int) -> Tensor:
    """``count`` members of each survivor, at equal distances among its members in raster order.

    Returns:
        [M, count] int64 flat indices, ascending; members repeat where a survivor has fewer.
    """
    assign = reduction.assign
    order = assign.argsort(stable=True)[int((assign < 0).sum()) :]  # survivor after survivor, members ascending
    sizes = reduction.members
    middle = 2 * torch.arange(count, device=assign.device) + 1
    return order[(sizes.cumsum(0) - sizes)[:, None] + middle * sizes[:, None] // (2 * count)]
