# SPDX-License-Identifier: Apache-2.0
"""Attention recomputed from a layer's own projections, for the rows that are asked for: no attention outputs, any
kernel, never a whole map at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vidcomp.schedules.blocks.rows import take_rows

__all__ = ["Attention", "AttentionInput", "moved", "page_rank", "rotated"]

_SCRATCH_BYTES = 32 << 20  # of one block of attention rows


@dataclass(frozen=True)
class AttentionInput:
    """Input of one layer's attention.

    Attributes:
        module: the attention module.
        hidden: [B, S, D] its input, after the layer's norm.
        cos, sin: [B or 1, S, head_size] rotary tables of these rows.
    """

    module: Any
    hidden: Tensor
    cos: Tensor
    sin: Tensor

    def queries(self, rows: Tensor) -> Tensor:
        """Rotated queries of the rows at [B, Q]: [B, heads, Q, head_size]."""
        return self._projected("q", rows)

    def keys(self) -> Tensor:
        """Rotated keys of all rows: [B, kv_heads, S, head_size]."""
        every = torch.arange(self.hidden.shape[1], device=self.hidden.device).expand(self.hidden.shape[0], -1)
        return self._projected("k", every)

    def to(self, device: torch.device) -> AttentionInput:
        """The same rows on another device; the module stays where it is."""
        return AttentionInput(self.module, *(x.to(device) for x in (self.hidden, self.cos, self.sin)))

    def unrotated(self) -> AttentionInput:
        """The same input at no position at all."""
        return AttentionInput(self.module, self.hidden, torch.ones_like(self.cos), torch.zeros_like(self.sin))

    def _projected(self, which: str, rows: Tensor) -> Tensor:
        project, norm = getattr(self.module, f"{which}_proj"), getattr(self.module, f"{which}_norm", None)
        heads = project(moved(take_rows(self.hidden, rows), project)).unflatten(-1, (-1, self.module.head_dim))
        heads = heads if norm is None else norm(moved(heads, norm))  # Qwen3: per head, before the rotation
        heads = heads.to(self.hidden.device)
        return rotated(self.module, heads.transpose(1, 2), take_rows(self.cos, rows), take_rows(self.sin, rows))


def moved(rows: Tensor, module: Any) -> Tensor:
    """Rows on the device where a module's weights live; where they are while weights are elsewhere until it runs."""
    weight = next(module.parameters(), rows)
    return rows if weight.device.type == "meta" else rows.to(weight.device)


def rotated(module: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [B, h, Q, head_size] turned by the rotary function of the attention module's own model file."""
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    turned: Tensor = rotate(heads, heads, cos, sin)[0]
    return turned


class Attention:
    """Softmax attention of one layer, mean over heads, in float32.

    Args:
        source: input of the layer's attention, S rows.
        keys: [B, kv_heads, L, head_size], rotated; the last S of the L keys belong to the S rows.
        causal: whether a row sees only the keys up to its own.
    """

    def __init__(self, source: AttentionInput, keys: Tensor, causal: bool = True) -> None:
        self.source, self._keys, self._causal = source, keys, causal

    @cached_property
    def mean_keys(self) -> Tensor:
        """[B, L, head_size] float32, mean over heads."""
        return self._keys.float().mean(1)

    def last_row(self) -> Tensor:
        """Attention of the last row: [B, L], rows sum to 1. Cost O(heads * L * head_size)."""
        last = torch.full((self._keys.shape[0], 1), self.source.hidden.shape[1] - 1, device=self._keys.device)
        return next(iter(self.blocks(last)))[1].mean(1)[:, 0]

    def received(self, rows: Tensor, per_viewer: bool = False) -> Tensor:
        """Attention that each key gets from the rows [B, Q], mean over them: [B, L].

        A causal model lets early keys be seen by more rows; ``per_viewer`` divides by the number of rows that can see
        a key instead of by Q.
        """
        total = self._keys.new_zeros(self._keys.shape[0], self._keys.shape[2], dtype=torch.float32)
        for _, weights in self.blocks(rows):
            total += weights.mean(1).sum(1)
        if not per_viewer:
            return total / rows.shape[1]
        first = self._keys.shape[2] - self.source.hidden.shape[1]
        columns = torch.arange(self._keys.shape[2], device=rows.device).expand(rows.shape[0], -1).contiguous()
        seen_by = rows.shape[1] - torch.searchsorted((rows + first).contiguous(), columns)
        return total / seen_by.clamp(min=1)

    def strongest(self, rows: Tensor) -> Tensor:
        """The largest attention that any of the rows [B, Q] pays to each key: [B, L]."""
        found = self._keys.new_zeros(self._keys.shape[0], self._keys.shape[2], dtype=torch.float32)
        for _, weights in self.blocks(rows):
            found = torch.maximum(found, weights.mean(1).amax(1))
        return found

    def mass(self, rows: Tensor, marked: Tensor) -> Tensor:
        """The share of their attention that the rows [B, Q] spend on the marked keys [B, L] bool, mean: [B]."""
        total = torch.zeros(rows.shape[0], device=self._keys.device)
        for _, weights in self.blocks(rows):
            total += (weights.mean(1) * marked[:, None]).sum((1, 2))
        return total / rows.shape[1]

    def blocks(self, rows: Tensor, temperature: float = 1.0) -> Iterator[tuple[slice, Tensor]]:
        """Attention of the rows [B, Q] to all keys, a few rows at a time: which of the Q, and [B, heads, q, L]."""
        batch, groups, length, size = self._keys.shape
        first = length - self.source.hidden.shape[1]
        columns = torch.arange(length, device=rows.device)
        heads = self.source.module.config.num_attention_heads
        step = max(1, _SCRATCH_BYTES // (4 * batch * heads * length))
        for start in range(0, rows.shape[1], step):
            part = rows[:, start : start + step]
            query = self.source.queries(part)
            scores = query.reshape(batch, groups, -1, size) @ self._keys.transpose(2, 3)
            scores = scores.float().view(batch, heads, -1, length) * (self.source.module.scaling / temperature)
            if self._causal:
                scores = scores.masked_fill_(columns > (part + first)[:, None, :, None], -torch.inf)
            yield slice(start, start + part.shape[1]), scores.softmax(-1)


def page_rank(
    walk: Callable[[], Iterable[tuple[slice, Tensor]]], rows: int, iterations: int, damping: float = 0.0
) -> Tensor:
    """AIM's importance: start uniform, follow the attention some steps, root mean square over heads.

    Args:
        walk: yields the attention map [B, heads, S, S] in blocks of rows; called once per step, so no map is kept.
        rows: S.
        iterations: number of steps, at least 1.
        damping: share of every step that is spread evenly.

    Returns:
        [B, S] float32.
    """
    rank: Tensor | None = None  # [B, heads, S], None for uniform
    for _ in range(iterations):
        following: Tensor | None = None
        for part, weights in walk():
            start = weights.new_full(weights.shape[:3], 1 / rows) if rank is None else rank[:, :, part]
            moved = (start[:, :, None] @ weights)[:, :, 0]
            following = moved if following is None else following + moved
        if following is None:
            break
        rank = following * (1 - damping) + damping / rows
    if rank is None:
        raise ValueError("page rank needs at least one iteration over at least one row")
    return rank.square().mean(1).sqrt()
