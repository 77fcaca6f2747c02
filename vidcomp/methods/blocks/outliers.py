# SPDX-License-Identifier: Apache-2.0
"""Local outlier factor of single numbers: how much sparser a value's surroundings are than those of its neighbours.

Source: Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.methods.blocks.similarity import block_bytes, widest_float

__all__ = ["local_outlier_factor", "outlier_share"]

_LIMIT = 1.5  # from which a value counts as an outlier, as in the usual library
_SMALL = 1e-10  # keeps the density of equal values finite, as there


def outlier_share(values: Tensor, k: int) -> Tensor:
    """Share of each row's values [G, N] that are outliers: [G] float32."""
    step = max(1, block_bytes(values.device) // (8 * values.shape[1] ** 2))
    parts = [local_outlier_factor(part, k) > _LIMIT for part in torch.split(values, step)]
    return torch.cat(parts).float().mean(dim=1)


def local_outlier_factor(values: Tensor, k: int) -> Tensor:
    """About one inside a cluster, larger outside.

    Args:
        values: [G, N]; each row is treated alone.
        k: neighbours, at most N - 1.

    Returns:
        [G, N], as wide as the device has; one for a single value.
    """
    values, size = values.to(widest_float(values.device)), values.shape[1]
    k = min(k, size - 1)
    if k < 1:
        return torch.ones_like(values)
    apart = (values[:, :, None] - values[:, None, :]).abs()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # a value is not its own neighbour
    near = apart.sort(dim=2, stable=True)
    distance, index = near.values[:, :, :k], near.indices[:, :, :k].flatten(1)
    own = distance[:, :, -1]  # [G, N], to the k-th neighbour
    reach = torch.maximum(distance, own.gather(1, index).view_as(distance))
    density = 1 / (reach.mean(dim=2) + _SMALL)
    return density.gather(1, index).view_as(distance).mean(dim=2) / density
