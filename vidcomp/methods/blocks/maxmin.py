# SPDX-License-Identifier: Apache-2.0
"""Max-min selection: repeatedly take the point that is farthest from everything taken so far.

Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 1985; the
greedy rule of DivPrune and of other diversity methods. Distance is 1 - cosine. Ties go to the lower index; copies of a
chosen point are at distance zero and come last, each at most once.

The running minimum of a point can only shrink, so an old value is an upper bound, and only points whose bound is large
enough to win are brought up to date, many at a time: the picks are those of the plain rule. Cost for k picks among R
points of width D: at most R * k * D products, far fewer on video. Memory: R * D, no table of R * R distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.similarity import block_bytes, products, widest_float

__all__ = ["farthest_first", "spread_out"]

_ROUNDING = 1e-5  # of a float32 product of two rows of length one


def farthest_first(rows: Tensor, count: int, *, first: int | None = None, shifts: tuple[int, ...] = (1,)) -> Tensor:
    """Pick ``count`` of R points.

    Args:
        rows: [R, D] any float dtype.
        count: from 1 to R.
        first: index of the first pick; when None, the point whose nearest other point is farthest away.
        shifts: distances in the order of the rows at which similar points are likely; they only save time.

    Returns:
        [count] int64, different indices in the order of picking.
    """
    copies = first_equal(rows)
    kinds = (copies == torch.arange(copies.numel(), device=rows.device)).nonzero()[:, 0]
    parts = torch.split(kinds, max(1, block_bytes(rows.device) // (4 * rows.shape[1])))
    points = torch.cat([unit_rows(rows[part]) for part in parts])
    if first is None:
        start = _most_isolated(points, torch.bincount(copies, minlength=len(rows))[kinds] > 1, shifts)
    else:
        start = int(torch.searchsorted(kinds, copies[first]))
    picks = kinds[_pick(points, min(count, kinds.numel()), start)]
    rest = torch.ones_like(copies, dtype=torch.bool)
    rest[picks] = False
    return torch.cat([picks, rest.nonzero()[: count - picks.numel(), 0]])


def spread_out(distance: Tensor, counts: Tensor) -> Tensor:
    """The rule within many small groups at once, from ready tables.

    Args:
        distance: [G, P, P], entry [g, i, j] is how far candidate j is from point i; columns may be scaled by the worth
            of a candidate. The first pick is the candidate with the largest second smallest entry in its column.
        counts: [G] int64, picks per group, from 0 to P.

    Returns:
        [G, P] bool.
    """
    groups, size = distance.shape[:2]
    every = torch.arange(groups, device=distance.device)
    chosen = torch.zeros(groups, size, dtype=torch.bool, device=distance.device)
    worth = distance.kthvalue(min(2, size), dim=1).values
    nearest = torch.full_like(worth, torch.inf)
    for number in range(int(counts.max()) if groups else 0):
        best = worth.masked_fill(chosen, -torch.inf).argmax(dim=1)
        chosen[every, best] |= counts > number
        nearest = worth = torch.minimum(nearest, distance[every, best])
    return chosen


def _pick(points: Tensor, count: int, start: int) -> Tensor:
    """The rule on different points [R, D] of length one: [count] int64."""
    size, width = points.shape
    picks = torch.empty(count, dtype=torch.int64, device=points.device)
    taken = points.new_empty(count, width, dtype=widest_float(points.device))  # the picks themselves
    bound = points.new_full((size,), torch.inf)  # distance to the first ``seen`` picks
    seen = torch.zeros_like(bound, dtype=torch.int64)
    best = start
    for number in range(count):
        picks[number], taken[number], bound[best] = best, points[best], -torch.inf
        if number + 1 < count:
            best = _winner(points, taken[: number + 1], bound, seen)
    return picks


def _winner(points: Tensor, taken: Tensor, bound: Tensor, seen: Tensor) -> int:
    """The point farthest from all picks; brings up to date what has to be known for that."""
    batch = 16
    while True:
        best = int(bound.argmax())  # the first of equals
        known = int(seen[best])
        if known == len(taken):
            return best
        some = ((seen < len(taken)) & (seen >= known)).nonzero()[:, 0]  # no staler than the best: little done twice
        some = some[bound[some].topk(min(batch, some.numel())).indices]
        near = (points[some].to(taken.dtype) @ taken[known:].T).amax(dim=1).float()
        bound[some] = torch.minimum(bound[some], (1 - near).clamp(min=0))
        seen[some] = len(taken)
        batch *= 2


def _most_isolated(points: Tensor, crowded: Tensor, shifts: tuple[int, ...]) -> int:
    """The point with the largest distance to its nearest other point; those with a copy are ``crowded``, at zero.

    Distances to a few likely neighbours bound it from above; points are looked at in falling order of the bound until
    no later one can win.
    """
    bound = torch.where(crowded, 0.0, 2.0)
    for shift in (s for s in shifts if s < len(points)):
        near = 1 - (points[shift:] * points[:-shift]).sum(dim=1)
        bound[shift:] = torch.minimum(bound[shift:], near)
        bound[:-shift] = torch.minimum(bound[:-shift], near)
    order = bound.argsort(descending=True, stable=True)
    value = torch.full_like(bound, -torch.inf)
    for some in torch.split(order, max(1, block_bytes(points.device) // (4 * len(points)))):
        if bound[some[0]] < value.max() - _ROUNDING:
            break
        value[some] = _gap(points[some] @ points.T, some)
    value = value.where(~crowded, 0.0)
    finalists = (value >= value.max() - _ROUNDING).nonzero()[:, 0]
    if bool(crowded[finalists].all()):
        return int(finalists[0])
    finalists = finalists[~crowded[finalists]][:512]
    exact = _gap(products(points[finalists], points), finalists)
    return int(finalists[exact.argmax()])


def _gap(similarity: Tensor, some: Tensor) -> Tensor:
    """[B] distance to the nearest other point, from the similarities [B, R] of the points ``some`` to all."""
    similarity[torch.arange(some.numel(), device=some.device), some] = -torch.inf
    return (1 - similarity.amax(dim=1)).clamp(0, 2)
