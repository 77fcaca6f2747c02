# SPDX-License-Identifier: Apache-2.0
"""Importance by flow on a graph of similar tokens, the rule that G-Prune and ForestPrune share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.similarity import block_bytes, cosines

__all__ = ["gathered_norms"]

_NOTHING = 1e-6  # scaled similarities below are no edge
_EDGELESS = -5000.0


def gathered_norms(rows: Tensor, similarity: float, temperature: float, steps: int) -> tuple[Tensor, Tensor]:
    """Lengths of tokens that flow into each token in ``steps`` steps, per neighbour.

    Edges are cosines of at least ``similarity``; a softmax of them over ``temperature`` shares a token's length among
    its neighbours, itself included. The table of shares is kept where it fits a block and computed anew for every step
    where it does not, R * R * D products each.

    Args:
        rows: [R, D] any float dtype.

    Returns:
        [R] float32 score, the same for equal tokens; [R] int64 number of neighbours.
    """
    first = first_equal(rows)
    flow = torch.linalg.vector_norm(rows.float(), dim=1)
    held = list(_shares(rows, similarity, temperature)) if len(rows) ** 2 <= block_bytes(rows.device) else None
    degree = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for _ in range(steps):
        into = torch.zeros_like(flow)
        for part, shares in held or _shares(rows, similarity, temperature):
            into += flow[part] @ shares
            degree[part] = (shares > 0).sum(dim=1)
        flow = into[first]
    return (flow / degree).nan_to_num(nan=0.0), degree


def _shares(rows: Tensor, similarity: float, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Shares [b, R] of blocks of tokens among all: each row sums to one."""
    step = max(1, block_bytes(rows.device) // (4 * len(rows)))
    for low in range(0, len(rows), step):
        cosine = cosines(rows[low : low + step], rows)
        scaled = torch.where(cosine < similarity, 0.0, cosine) / temperature
        yield slice(low, low + step), torch.where(scaled.abs() < _NOTHING, _EDGELESS, scaled).softmax(dim=1)
