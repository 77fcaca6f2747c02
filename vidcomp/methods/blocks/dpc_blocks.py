# SPDX-License-Identifier: Apache-2.0
"""DPC-KNN of one large group, in blocks of rows: the rule of ``dpc_knn`` without its P x P table."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vidcomp.methods.blocks.equal import first_of_same
from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["density_peaks_of_many"]

_EQUAL = 2.0**-18  # of the squared lengths: what rounding may leave of a distance of zero


def density_peaks_of_many(points: Tensor, count: int, k: int, label: Tensor) -> Tensor:
    """Cluster P points around the ``count`` of them that are dense and far from denser ones.

    Distances are computed three times, so memory stays bounded: for the densities, for the distance to the nearest
    denser point, and to the centres.

    Args:
        points: [P, D] float32.
        count: clusters, from 1 to P.
        k: neighbours of the density, at most ``count``.
        label: [P] int64, the same for equal points, so that ties among them are ties.

    Returns:
        [P] int64 index of each point's centre; of equals the lowest.
    """
    points = points - points.mean(dim=0)
    first, every = first_of_same(label), torch.arange(len(points), device=points.device)
    crowd, widest = torch.empty(len(points), device=points.device), points.new_zeros(())
    near = min(k, count)
    for part, distance in _distances(points, points):
        crowd[part] = distance.topk(near, dim=1, largest=False).values.mean(dim=1)
        widest = torch.maximum(widest, distance.max())
    crowd = crowd[first]
    apart = torch.empty_like(crowd)
    for part, distance in _distances(points, points):
        apart[part] = distance.masked_fill_(crowd >= crowd[part, None], torch.inf).amin(dim=1)
    apart = torch.where(apart < torch.inf, apart, widest)[first]
    score = torch.special.xlogy(0.5, apart) - crowd  # the logarithm of separation * density
    centres = score.argsort(descending=True, stable=True)[:count].sort().values
    different = centres[first_of_same(first[centres]) == torch.arange(count, device=points.device)]
    owner = torch.empty_like(every)
    for part, distance in _distances(points, points[different]):
        owner[part] = different[distance.argmin(dim=1)]
    owner[centres] = centres
    return owner


def _distances(points: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances over D of blocks of points to all others: (rows, [b, O])."""
    squares = others.square().sum(dim=1)
    step = max(1, block_bytes(points.device) // (4 * len(others)))
    for low in range(0, len(points), step):
        part = slice(low, low + step)
        scale = points[part].square().sum(dim=1, keepdim=True) + squares
        distance = torch.addmm(scale, points[part], others.T, alpha=-2)
        yield part, distance.masked_fill_(distance <= scale * _EQUAL, 0).div_(points.shape[1])
