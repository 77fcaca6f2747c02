# SPDX-License-Identifier: Apache-2.0
"""A fixed random projection, for distances among many wide tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["projected"]


def projected(rows: Tensor, dimensions: int) -> Tensor:
    """Rows in fewer dimensions, such that squared distances are right on average.

    The same matrix on every call and device (Johnson and Lindenstrauss: distances are off by about sqrt(2 /
    dimensions)). Equal rows stay equal up to rounding.

    Args:
        rows: [R, D] any float dtype.
        dimensions: 0 for no projection.

    Returns:
        [R, min(D, dimensions)] float32; the rows themselves when they are no wider.
    """
    width = rows.shape[1]
    if not 0 < dimensions < width:
        return rows.float()
    matrix = torch.randn(width, dimensions, generator=torch.Generator().manual_seed(0)) / dimensions**0.5
    matrix = matrix.to(rows.device)
    step = max(1, 4 * block_bytes(rows.device) // (4 * width))
    return torch.cat([part.float() @ matrix for part in torch.split(rows, step)])
