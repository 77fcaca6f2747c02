# SPDX-License-Identifier: Apache-2.0
"""Rows by index, per sequence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_rows", "ranks_of", "take_rows"]


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Gather along dimension 1: rows [B or 1, S, ...] by index [B, W] gives [B, W, ...]."""
    rows = rows.expand(index.shape[0], *rows.shape[1:])
    shape = (*index.shape, *([1] * (rows.dim() - 2)))
    return rows.gather(1, index.to(rows.device).view(shape).expand(*index.shape, *rows.shape[2:]))


def ranks_of(marked: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the marked entries of [B, S] bool, ascending; every row must have ``count`` of them."""
    return marked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def add_rows(hidden: Tensor, places: Tensor, level: Tensor, which: Tensor) -> Tensor:
    """Add row ``which`` [B, V] of a level [L, D] to the rows of [B, S, D] that stand at ``places`` [B, V]."""
    index = places.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[2])
    added = hidden.gather(1, index) + level.to(hidden)[which.to(hidden.device)]
    return hidden.scatter(1, index, added)
