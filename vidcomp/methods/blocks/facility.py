# SPDX-License-Identifier: Apache-2.0
"""Facility location: choose candidates so that every row is covered well by its best chosen candidate.

Maximises the sum over rows of the largest value among the chosen candidates, greedily. The gain of a candidate can
only fall as others are chosen, so an old gain is an upper bound and only candidates that could win are looked at
again (lazy greedy, Minoux 1978): the picks are those of the plain rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coverage", "facility_location"]

_BATCH = 32  # candidates looked at again at once


@dataclass(frozen=True)
class Coverage:
    """Coverage of each row by each of R candidates, values of at least zero.

    Attributes:
        shared: [R, m], rows that every candidate may cover.
        own: [G, W, W], rows that only candidates of the same group cover: entry [g, j, r] is how well candidate j of
            group g covers row r. Candidate j of group g is number g * W + j; numbers from R on are padding.
    """

    shared: Tensor
    own: Tensor


def facility_location(coverage: Coverage, count: int) -> Tensor:
    """Pick ``count`` of R candidates, from 1 to R: [count] int64 in the order of picking, ties to the lower index."""
    shared, own = coverage.shared, coverage.own
    group_size, device = own.shape[1], shared.device
    total = len(shared)
    best_shared = torch.zeros(shared.shape[1], device=device)
    best_own = torch.zeros(own.shape[:2], device=device)

    def gain(some: Tensor) -> Tensor:
        group, place = some // group_size, some % group_size
        far = (shared[some] - best_shared).clamp_(min=0).sum(dim=1)
        return far + (own[group, place] - best_own[group]).clamp_(min=0).sum(dim=1)

    bound = torch.cat([gain(part) for part in torch.split(torch.arange(total, device=device), 4 * group_size)])
    known = torch.zeros(total, dtype=torch.int64, device=device)  # picks that the bound accounts for
    picks = torch.empty(count, dtype=torch.int64, device=device)
    for number in range(count):
        batch = _BATCH
        while known[best := int(bound.argmax())] < number:  # of equals the first, so it has to be among those below
            stale = bound.masked_fill(known == number, -torch.inf)
            some = stale.argsort(descending=True, stable=True)[:batch]
            some = some[stale[some] > -torch.inf]
            bound[some], known[some] = gain(some), number
            batch *= 2
        picks[number] = best
        group, place = divmod(best, group_size)
        best_shared = torch.maximum(best_shared, shared[best])
        best_own[group] = torch.maximum(best_own[group], own[group, place])
        bound[best] = -torch.inf
    return picks
