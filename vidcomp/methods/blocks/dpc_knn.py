# SPDX-License-Identifier: Apache-2.0
"""Density-peak clustering with k nearest neighbours (DPC-KNN), many groups of points at once, without noise.

Source: Du, Ding and Jia, "Study on density peaks clustering based on k-nearest neighbors and principal component
analysis", Knowledge-Based Systems 2016, in the form HoliTom, FastVID and PruneVid use on tokens.

With d the Euclidean distance over sqrt(D): density = exp(-mean of d**2 to the k nearest points, the point itself
included); separation = distance to the nearest strictly denser point, or the largest distance of the group when there
is none. The points with the largest density * separation are the centres; every other point joins its nearest centre.
The published codes add random noise to break ties; here ties go to the lower index.

Dimension letters: G groups, P points of the largest group (smaller ones are padded at the end), D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["blend_shares", "cluster_groups", "density_peaks", "ranked_groups", "ranked_peaks", "squared_distances"]

_EQUAL = 2.0**-18  # of the squared lengths: float32 products over thousands of terms are not better
Fetch = Callable[[int, int, int], Tensor]


def cluster_groups(
    sizes: NDArray[np.int64], counts: NDArray[np.int64], k: int, fetch: Fetch, width: int, device: torch.device
) -> Tensor:
    """:func:`density_peaks` in blocks of groups, so that memory stays bounded. Sizes on the host: no wait in the loop.

    Args:
        sizes: [G] points per group, at least 1.
        counts: [G] clusters per group, from 1 to the group's size.
        k: neighbours of the density.
        fetch: (first group, end, P of the block) to points [groups, P, D] float32, each minus one point of its
            group: what all tokens share is often far longer than what tells them apart, and would eat the precision
            of ``|a|**2 + |b|**2 - 2 a b``.
        width: D.
        device: where the points live.

    Returns:
        [G, P] int64, index in the group of each point's centre; padding holds any index below P.
    """
    return ranked_groups(sizes, counts, k, fetch, width, device)[0]


def ranked_groups(
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    k: int,
    fetch: Fetch,
    width: int,
    device: torch.device,
    capped: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`cluster_groups`, with the rank of every point, as in :func:`ranked_peaks`: both [G, P]."""
    widest = int(sizes.max())
    step = max(1, block_bytes(device) // (4 * widest * (width + 4 * widest)))
    size, count = (torch.from_numpy(table).to(device, non_blocking=True) for table in (sizes, counts))
    owner, rank = size.new_zeros(2, len(sizes), widest)
    for low in range(0, len(sizes), step):
        part = slice(low, min(low + step, len(sizes)))
        most = int(sizes[part].max())
        found = ranked_peaks(fetch(low, part.stop, most), size[part], count[part], k, capped)
        owner[part, :most], rank[part, :most] = found
    return owner, rank


def density_peaks(points: Tensor, sizes: Tensor, counts: Tensor, k: int) -> Tensor:
    """Cluster every group.

    Args:
        points: [G, P, D] float32, as in :func:`cluster_groups`.
        sizes, counts: [G] int64, points and clusters per group.
        k: neighbours of the density, at most as many as the group has clusters.

    Returns:
        [G, P] int64, as in :func:`cluster_groups`; a centre is its own.
    """
    return ranked_peaks(points, sizes, counts, k)[0]


def ranked_peaks(points: Tensor, sizes: Tensor, counts: Tensor, k: int, capped: bool = True) -> tuple[Tensor, Tensor]:
    """:func:`density_peaks`, with the rank of every point by falling density * separation.

    Args:
        points, sizes, counts: as there.
        k: neighbours of the density, at most as many as there are points in the group.
        capped: at most as many as there are clusters, too.

    Returns:
        [G, P] int64 owner; [G, P] int64 rank, below ``counts`` for centres.
    """
    place = torch.arange(points.shape[1], device=points.device)
    valid = place < sizes[:, None]
    distance, widest = squared_distances(points, valid)  # [G, P, P], [G]
    near = (torch.minimum(counts, sizes) if capped else sizes).clamp(max=k)
    crowding = _nearest_mean(distance, near, k)  # [G, P], minus the logarithm of the density
    denser = crowding[:, None, :] < crowding[:, :, None]
    apart = torch.where(denser, distance, torch.inf).amin(dim=2)
    apart = torch.where(apart < torch.inf, apart, widest[:, None])
    # The logarithm of density * separation neither under- nor overflows; log itself would wake all threads for it.
    score = (torch.special.xlogy(0.5, apart) - crowding).where(valid, -torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(valid).scatter_(1, order, place < counts[:, None])
    nearest = distance.masked_fill_(~chosen[:, None, :], torch.inf).argmin(dim=2)
    rank = torch.zeros_like(order).scatter_(1, order, place.expand_as(order))
    return torch.where(chosen, place, nearest), rank


def squared_distances(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances divided by D: symmetric, the diagonal exactly zero, padded columns infinitely far away.

    Args:
        points: [G, P, D] float32, without what they share, as in :func:`cluster_groups`; valid: [G, P] bool.

    Returns:
        [G, P, P] float32, and the largest distance [G] of each group.
    """
    inner = points @ points.transpose(1, 2)
    squares = inner.diagonal(dim1=1, dim2=2)
    # Both terms are symmetric to the last bit: two points that are nearest to each other must have equal densities.
    scale = squares[:, :, None] + squares[:, None, :]
    distance = _merge_equal(scale - (inner + inner.transpose(1, 2)), scale * _EQUAL).div_(points.shape[2])
    padding = ~valid[:, None, :]
    widest = distance.masked_fill_(padding, 0).amax(dim=2).where(valid, 0.0).amax(dim=1)
    return distance.masked_fill_(padding, torch.inf), widest


def _merge_equal(distance: Tensor, noise: Tensor) -> Tensor:
    """Give points that are equal up to rounding the same distances, to the bit, so that ties among them are ties.

    Matrix products may round differently per row and number of threads; without this, noise would choose among equal
    points.

    Args:
        distance, noise: [G, P, P], squared distances and what rounding may have left of zero.

    Returns:
        [G, P, P]; every point has the row and column of the first point equal to it, at distance zero.
    """
    equal = distance <= noise
    first = equal.byte().argmax(dim=2)  # [G, P]
    distance = distance.masked_fill_(equal, 0).gather(1, first[:, :, None].expand_as(distance))
    return distance.gather(2, first[:, None, :].expand_as(distance))


def _nearest_mean(distance: Tensor, neighbours: Tensor, k: int) -> Tensor:
    """Mean of the smallest ``neighbours[g]`` entries of each row of group g: [G, P, P] and [G] to [G, P]."""
    near = distance.topk(min(k, distance.shape[2]), dim=2, largest=False, sorted=True).values
    counted = torch.arange(near.shape[2], device=near.device) < neighbours[:, None, None]
    return near.where(counted, 0.0).sum(dim=2) / neighbours[:, None]


def blend_shares(owner: Tensor, sizes: Tensor, beta: float | None) -> Tensor:
    """Weight of each point in its cluster's token: ``beta`` for the centre, the rest in equal parts for the others.

    A centre that nobody joined weighs one. ``beta`` None is the plain mean of centre and members.

    Args:
        owner: [G, P] from :func:`density_peaks`; sizes: [G].

    Returns:
        [G, P] float32; per cluster they sum to one; padding holds no meaning.
    """
    place = torch.arange(owner.shape[1], device=owner.device)
    valid = (place < sizes[:, None]).long()
    others = (torch.zeros_like(owner).scatter_add_(1, owner, valid).gather(1, owner) - 1).float()
    if beta is None:
        return 1 / (others + 1)
    centre = torch.where(others > 0, beta, 1.0)
    return torch.where(owner == place, centre, (1 - beta) / others)
