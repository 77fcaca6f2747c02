"""FLOPs and cache bytes of a prefill, counted from the rows that entered each layer.

One named convention: multiply-adds of grouped-query attention and a gated MLP, the exact count of FastVID's formula
``2nC^2(1 + g/h) + 2n^2C + 3nCm`` per layer. Text rows are included; embedding, norms, the output head and the vision
tower are not. A multiply-add is counted once. Published figures follow other conventions and do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidcomp.sizes import ModelShape

__all__ = ["Cost", "layer_flops", "prefill_cost"]


@dataclass(frozen=True)
class Cost:
    """What a prefill costs: multiply-adds, and bytes of the KV cache it leaves behind."""

    flops: float
    kv_bytes: int


def layer_flops(shape: ModelShape, rows: int, cached: int = 0) -> float:
    """Multiply-adds of one decoder layer over ``rows`` rows that also look at ``cached`` earlier ones."""
    query = shape.heads * shape.head_size
    projections = 2 * rows * shape.width * query * (1 + shape.kv_heads / shape.heads)
    attention = 2 * rows * (rows + cached) * query
    return projections + attention + 3 * rows * shape.width * shape.mlp_width


def prefill_cost(shape: ModelShape, layer_rows: Sequence[int], layer_cached: Sequence[int] = ()) -> Cost:
    """Cost of a prefill in which ``layer_rows[i]`` rows entered layer i, which held ``layer_cached[i]`` rows before."""
    before = layer_cached or [0] * len(layer_rows)
    per_key = 2 * shape.kv_heads * shape.head_size * shape.bytes_per_value
    flops = sum(layer_flops(shape, rows, held) for rows, held in zip(layer_rows, before, strict=True))
    return Cost(flops, (sum(layer_rows) + sum(before)) * per_key)
