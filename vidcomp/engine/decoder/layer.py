# SPDX-License-Identifier: Apache-2.0
"""Keys and values of one decoder layer, some of whose first keys may have left.

A *column* is an index on the timeline of layer 0, which is never reduced. A reduced layer stores a map of its
first keys to columns; every later key belongs to the contiguous run that follows, so decode steps need no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

__all__ = ["CompressedLayer"]


class CompressedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A growing cache layer that knows which columns its keys belong to.

    Attributes:
        columns: [B, n] int64, columns of the first n keys; None while the layer holds every column.
        tail: column of the key after those.
        lag: how far the positions of new rows lag behind those of layer 0.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns: Tensor | None = None
        self.tail = 0
        self.lag: int | None = None

    @property
    def held(self) -> int:
        """Keys in the layer."""
        return int(self.get_seq_length())

    @property
    def stored_keys(self) -> Tensor:
        """[B, kv_heads, L, head_size]; the layer has been written before."""
        return cast(Tensor, self.keys)

    def key_columns(self, like: Tensor) -> Tensor:
        """Columns [B, L] of the keys held, on the device and for the batch of ``like`` [B, ...]."""
        if self.columns is None:
            return torch.arange(self.held, device=like.device).expand(like.shape[0], -1)
        first = self.columns.to(like.device)
        run = torch.arange(self.tail, self.tail + self.held - first.shape[1], device=like.device)
        return torch.cat([first, run.expand(first.shape[0], -1)], 1)

    def keep(self, index: Tensor, tail: int) -> None:
        """Let all keys and values go but those at ``index`` [B, W]; new keys begin at column ``tail``."""
        columns = self.key_columns(index)
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        self.keys, self.values = (
            rows.gather(2, index.to(rows.device)[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
            for rows in (keys, values)
        )
        self.columns, self.tail = columns.gather(1, index), tail

    def crop(self, tokens_to_remove: int) -> None:
        """Remove ``-tokens_to_remove`` keys from the end; 0 does nothing."""
        before = self.held
        super().crop(tokens_to_remove)
        if self.columns is not None:
            end = self.tail + before - self.columns.shape[1] + tokens_to_remove
            self.columns, self.tail = self.columns[:, : self.held], min(self.tail, end)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self._each_sequence(lambda columns: columns.index_select(0, beam_idx.to(columns.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        super().batch_repeat_interleave(repeats)
        self._each_sequence(lambda columns: columns.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences."""
        super().batch_select_indices(indices)
        self._each_sequence(lambda columns: columns[indices.to(columns.device)])

    def reset(self) -> None:
        """Hold nothing."""
        super().reset()
        self.columns, self.tail, self.lag = None, 0, None

    def _each_sequence(self, move: Callable[[Tensor], Tensor]) -> None:
        if self.columns is not None:
            self.columns = move(self.columns)
