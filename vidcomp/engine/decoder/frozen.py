# SPDX-License-Identifier: Apache-2.0
"""Visual rows that pass through a layer unchanged: text is updated and still reads their keys and values.

The layer is run on the text rows alone. Keys and values of the visual rows are computed from their unchanged states
with the layer's own norm and projections, and join the text's on the way into the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ModelError
from vidcomp.schedules.blocks.rows import ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import AttentionInput

__all__ = ["FrozenRows", "freeze_rows"]

_KERNELS = ("sdpa", "eager")  # those that take a mask [B, 1, rows, keys]


@dataclass(frozen=True)
class FrozenRows:
    """Rows held beside a frozen layer.

    Attributes:
        rows: [B, S, D], as they entered the layer.
        text: [B, X] int64, the rows that the layer updates; visual: [B, V], those it does not.
        keys, values: [B, kv_heads, V, head_size] of the visual rows.
    """

    rows: Tensor
    text: Tensor
    visual: Tensor
    keys: Tensor
    values: Tensor

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all S rows in their order, from those of the text rows."""
        order = torch.cat([self.text, self.visual], 1).argsort(1)[:, None, :, None]

        def ordered(text: Tensor, visual: Tensor) -> Tensor:
            both = torch.cat([text, visual.to(text.dtype)], 2)
            return both.gather(2, order.expand(-1, both.shape[1], -1, both.shape[3]))

        return ordered(keys, self.keys), ordered(values, self.values)

    def back(self, updated: Tensor) -> Tensor:
        """All rows behind the layer: the updated text rows [B, X, D], the others as they were."""
        return self.rows.scatter(1, self.text[..., None].expand_as(updated), updated)


def freeze_rows(layer: Any, rows: Tensor, visual: Tensor, rotary: tuple[Tensor, Tensor]) -> FrozenRows:
    """Set the visual rows [B, V] among [B, S, D] aside.

    Args:
        layer: the decoder layer.
        rows: what enters it.
        visual: where the visual rows stand.
        rotary: tables of all S rows.

    Raises:
        ModelError: an attention kernel that takes no mask of the keys that a row may see.
    """
    kernel = layer.self_attn.config._attn_implementation
    if kernel not in _KERNELS:
        raise ModelError(f"attention kernel {kernel} cannot skip rows of a layer", why="it takes no mask of its own",
                         hint="--attn sdpa", code="unsupported_attention")  # fmt: skip
    marked = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device).scatter_(1, visual, False)
    text = ranks_of(marked, rows.shape[1] - visual.shape[1])
    attention = layer.self_attn
    normed = layer.input_layernorm(take_rows(rows, visual))
    tables = (take_rows(rotary[0], visual), take_rows(rotary[1], visual))
    keys = AttentionInput(attention, normed, *tables).keys()
    values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    return FrozenRows(rows, text, visual, keys, values)
