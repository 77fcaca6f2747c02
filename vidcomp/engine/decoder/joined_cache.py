# SPDX-License-Identifier: Apache-2.0
"""Several prompts side by side: one cache, in which every sequence is reduced by its own plan.

Sequences are padded on the left, so that all end in the same column, and their new tokens stand below each other. The
attention mask [B, W] hides the padding; stock code makes a mask [B, 1, W, W] of it (sdpa: bool, eager: additive), and
behind a reduction that mask is gathered by the rows and keys that a layer still has. Column 0 is padding in every
sequence: it fills up sequences that are shorter behind a stage, and is hidden already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.decoder.forward import Rotary, Tables
from vidcomp.engine.decoder.measured import Measured
from vidcomp.engine.decoder.plan import RowPlan
from vidcomp.schedules.blocks.scoring import Attention, AttentionInput

__all__ = ["JoinedCache", "why_alone"]


def why_alone(plan: RowPlan) -> str | None:
    """Why the sequence of a plan cannot stand beside others; None when it can."""
    if plan.positions is not None:
        return "its rows have several positions each"
    if plan.frozen:
        return "visual rows pass layers unchanged"
    if plan.read_layer is not None:
        return "decode steps read part of the keys"
    return "rows are renumbered inside the model" if plan.renumbers else None


class JoinedCache(CompressedCache):
    """The keys of B sequences that are read together; what is measured goes to the caches that they would have alone.

    Args:
        config: text config of the model.
        parts: the empty cache of each sequence; all have the same schedule, and :func:`why_alone` has nothing to say.

    Attributes:
        width: W, columns of the prefill: the longest sequence and one of padding.
        pads: columns of padding in front of each sequence.
    """

    def __init__(self, config: Any, parts: Sequence[CompressedCache]) -> None:
        plans = [part.plan for part in parts]
        self.width = max(plan.length for plan in plans) + 1
        self.pads = [self.width - plan.length for plan in plans]
        hidden = torch.zeros(self.width, dtype=torch.bool)  # each sequence knows its own visual rows
        super().__init__(config, RowPlan(hidden, plans[0].depth, plans[0].schedule))
        self.parts = [_Part(self, number, config, part) for number, part in enumerate(parts)]

    @property
    def applied(self) -> bool:
        """True if every sequence was reduced as its schedule asks."""
        return all(part.applied for part in self.parts)

    def start_forward(self, hidden: Tensor, positions: Tensor | None = None, rotary: Rotary | None = None) -> None:
        """Begin a pass of all sequences, [B, S, D]."""
        super().start_forward(hidden, positions, rotary)
        if self.forward.prefilling:
            for number, part in enumerate(self.parts):
                part.start_forward(hidden[number : number + 1, self.pads[number] :])

    def reduce_before(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Add levels and reduce every sequence by itself: [B, R, D] to [B, R', D]."""
        if not self.forward.prefilling:
            return hidden
        self.forward.follow(hidden.device)
        rows = [
            part.reduce_before(layer, module, own, tables)
            for part, own, tables in zip(
                self.parts, self._unpadded(hidden), self._tables_of_each(rotary), strict=True
            )
        ]  # fmt: skip
        if layer in self.plan.stages or 0 < layer <= max(len(part.plan.deepstack) for part in self.parts):
            hidden = self._padded(rows, hidden)
        self.measured.entered[layer] = self.measured.updated[layer] = hidden.shape[1]
        self.forget_inputs(layer)
        return hidden

    def attention_of(self, number: int, layer: int, device: torch.device) -> Attention:
        """The attention of a watched layer in one sequence, its padding left out."""
        seen, keys = self._attention_of(layer, device).source, self.layer(layer).stored_keys.to(device)
        start = keys.shape[2] - self.parts[number].measured.entered[layer]
        one = slice(number, number + 1)
        cos, sin = (table.expand(len(keys), -1, -1)[one, start:] for table in (seen.cos, seen.sin))
        return Attention(AttentionInput(seen.module, seen.hidden[one, start:], cos, sin), keys[one, :, start:])

    def _unpadded(self, hidden: Tensor) -> list[Tensor]:
        """[1, R of the sequence, D] each."""
        held = (part.plan.length if part.forward.rows is None else part.forward.rows.shape[1] for part in self.parts)
        return [hidden[number : number + 1, hidden.shape[1] - rows :] for number, rows in enumerate(held)]

    def _tables_of_each(self, rotary: Tables) -> list[Tables]:
        """Rotary tables [1, S of the sequence, head_size] each."""
        cos, sin = (table.expand(len(self.parts), -1, -1) for table in rotary)
        return [(cos[b : b + 1, pad:], sin[b : b + 1, pad:]) for b, pad in enumerate(self.pads)]

    def _padded(self, rows: list[Tensor], like: Tensor) -> Tensor:
        """Sequences [1, R, D] below each other, behind padding; notes which rows they are where rows have left."""
        reduced = any(part.forward.rows is not None for part in self.parts)
        width = max(own.shape[1] for own in rows) + 1 if reduced else like.shape[1]
        joined = like.new_zeros(len(rows), width, like.shape[2])
        present = torch.zeros(len(rows), width, dtype=torch.int64, device=like.device)
        for number, (part, own) in enumerate(zip(self.parts, rows, strict=True)):
            joined[number, width - own.shape[1] :] = own[0]
            which = torch.arange(own.shape[1], device=like.device) if part.forward.rows is None else part.forward.rows
            present[number, width - own.shape[1] :] = which + self.pads[number]
        if reduced:
            self.forward.rows = present
        return joined


class _Part(CompressedCache):
    """One sequence of a batch: its plan, its rows and what is measured of them; the keys are in the joined cache."""

    def __init__(self, joined: JoinedCache, number: int, config: Any, alone: CompressedCache) -> None:
        super().__init__(config, alone.plan)
        alone.measured = self.measured = Measured()
        self._joined, self._number = joined, number

    def _attention_of(self, layer: int, device: torch.device) -> Attention:
        return self._joined.attention_of(self._number, layer, device)
