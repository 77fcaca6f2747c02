# SPDX-License-Identifier: Apache-2.0
"""Tokens that are equal to the last bit, so that ties among them are ties.

Matrix products may round differently per row and per number of threads: without this, noise would choose among the
copies that a still video is made of.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["first_equal", "first_of_same"]

_GLANCE = 32  # columns that are enough to tell most tokens apart
_BLOCK = 1 << 22  # values looked at once


def first_equal(rows: Tensor) -> Tensor:
    """For each row the first row with the same values.

    Rows are compared by a hash of a few columns, then value by value with the first row of the same hash. Only where
    that finds a difference are all columns hashed, so the usual cost is one pass over the tokens that have copies.

    Args:
        rows: [R, D] any float dtype.

    Returns:
        [R] int64, at most the row's own index.
    """
    first = first_of_same(_hashed(rows[:, :: max(1, rows.shape[1] // _GLANCE)]))
    wrong = _differs(rows, first)
    if bool(wrong.any()):
        mixed = torch.zeros_like(wrong)
        mixed[first[wrong]] = True
        crowd = mixed[first].nonzero()[:, 0]  # all rows of the groups that hold more than one kind
        again = first_of_same(_hashed(rows[crowd]))
        own = torch.arange(crowd.numel(), device=rows.device)
        first[crowd] = crowd[torch.where(_differs(rows[crowd], again), own, again)]
    return first


def _differs(rows: Tensor, other: Tensor) -> Tensor:
    """[R, D] and indices [R] to [R] bool: whether a row and the other one hold different values."""
    found = torch.zeros_like(other, dtype=torch.bool)
    copies = (other != torch.arange(other.numel(), device=other.device)).nonzero()[:, 0]
    for part in torch.split(copies, max(1, _BLOCK // rows.shape[1])):
        found[part] = (rows[part] != rows[other[part]]).any(dim=1)
    return found


def first_of_same(values: Tensor) -> Tensor:
    """[R] to [R] int64: the first index that holds the same value."""
    index = torch.arange(values.numel(), device=values.device)
    kinds, kind = torch.unique(values, return_inverse=True)
    lowest = torch.full((kinds.numel(),), values.numel(), device=values.device)
    return lowest.scatter_reduce(0, kind, index, "amin")[kind]


def _hashed(rows: Tensor) -> Tensor:
    """[R, D] to [R] int64. Integer sums are exact in any order, so equal rows always agree."""
    factors = torch.randint(1, 2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    factors = factors.to(rows.device)
    parts = [
        ((part.float() + 0.0).view(torch.int32).long() * factors).sum(dim=1)  # + 0.0: the two zeros are equal
        for part in torch.split(rows, max(1, _BLOCK // rows.shape[1]))
    ]
    return torch.cat(parts)
