# SPDX-License-Identifier: Apache-2.0
"""FLOPs and cache bytes of a prefill, counted from the rows that entered each layer.

One named convention: multiply-adds of grouped-query attention and a gated MLP, the exact count of FastVID's formula
``2nC^2(1 + g/h) + 2n^2C + 3nCm`` per layer. Text rows are included; embedding, norms, the output head and the vision
tower are not. A multiply-add is counted once. Published figures follow other conventions and do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidcomp.core.architectures import ModelShape

__all__ = ["Cost", "layer_flops", "prefill_cost"]


@dataclass(frozen=True)
class Cost:
    """Cost of a prefill: multiply-adds, and bytes of the KV cache it leaves behind.

    Attributes:
        flops: multiply-adds.
        kv_bytes: of the KV cache.
    """

    flops: float
    kv_bytes: int


def layer_flops(shape: ModelShape, rows: int, updated: int | None = None, cached: int = 0) -> float:
    """Multiply-adds of one decoder layer.

    Args:
        shape: sizes of the language model.
        rows: rows that enter; each gets a key and a value.
        updated: how many of them the layer updates, None for all; the others are only read.
        cached: earlier rows whose keys and values are read besides.
    """
    updated = rows if updated is None else updated
    query = shape.heads * shape.head_size
    projections = 2 * shape.width * query * (updated + rows * shape.kv_heads / shape.heads)
    attention = 2 * updated * (rows + cached) * query
    return projections + attention + 3 * updated * shape.width * shape.mlp_width


def prefill_cost(
    shape: ModelShape,
    layer_rows: Sequence[int],
    layer_updated: Sequence[int] = (),
    layer_cached: Sequence[int] = (),
) -> Cost:
    """Cost of a prefill.

    Args:
        shape: sizes of the language model.
        layer_rows: rows that entered each layer.
        layer_updated: how many of them it updated, empty for all.
        layer_cached: rows that it held before, empty for none.
    """
    before = layer_cached or [0] * len(layer_rows)
    per_key = 2 * shape.kv_heads * shape.head_size * shape.bytes_per_value
    layers = zip(layer_rows, layer_updated or layer_rows, before, strict=True)
    return Cost(sum(layer_flops(shape, *layer) for layer in layers), (sum(layer_rows) + sum(before)) * per_key)
