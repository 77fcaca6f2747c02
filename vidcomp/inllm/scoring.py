"""Attention of one query row, recomputed from the layer's own projection: no attention outputs, any kernel."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["LastQuery", "last_row_attention"]


@dataclass(frozen=True)
class LastQuery:
    """What the attention of one layer saw for its last row.

    Attributes:
        attention: the attention module.
        hidden: [B, 1, D] its input.
        cos, sin: [B or 1, 1, head_size] rotary tables of that row.
    """

    attention: Any
    hidden: Tensor
    cos: Tensor
    sin: Tensor


def last_row_attention(query: LastQuery, keys: Tensor) -> Tensor:
    """Softmax attention of the last row over the cached keys, mean over heads.

    The last row sees every key, so no mask enters. Cost O(heads * L * head_size).

    Args:
        query: the last row of the layer.
        keys: [B, kv_heads, L, head_size], rotated, as the cache holds them.

    Returns:
        [B, L] float32; rows sum to 1.
    """
    attention = query.attention
    batch, groups, _, size = keys.shape
    row = attention.q_proj(query.hidden).view(batch, 1, -1, size)
    if getattr(attention, "q_norm", None) is not None:  # Qwen3: per head, before the rotation
        row = attention.q_norm(row)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    row = row.transpose(1, 2)
    row = rotate(row, row, query.cos, query.sin)[0].reshape(batch, groups, -1, size)
    scores = (row @ keys.transpose(2, 3)).float() * attention.scaling  # [B, kv_heads, heads per group, L]
    attention_row: Tensor = scores.softmax(-1).mean((1, 2))
    return attention_row
