# SPDX-License-Identifier: Apache-2.0
"""Position ids of the rows that the language model reads, by the policies of ``--positions``.

``compact`` renumbers the rows without gaps, ``keep`` leaves each survivor where its anchor stood in the full
sequence. ``ppe`` does the same, and lets a merged survivor carry the positions of several of its members at once:
each of :data:`GROUPS` parts of the rotary frequencies turns with the position of another member.

Source of ``ppe``: "Positional Preservation Embedding for Multimodal Large Language Models", ICLR 2026, arXiv
2510.22936, https://github.com/MouxiaoHuang/PPE. Our reading: members are taken at equal distances in raster order,
while the published code takes arbitrary ones; frequencies are cut into equal parts for rotary embeddings with one
position per row, while the published code does so within each section of a three-part one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.tokens import Reduction

__all__ = ["GROUPS", "raster_policies", "spread_members"]

GROUPS = 8  # parts of the rotary frequencies, as published
raster_policies = frozenset({"keep", "ppe"})  # survivors are read in the order of the full sequence


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
