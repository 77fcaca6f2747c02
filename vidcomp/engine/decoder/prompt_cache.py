# SPDX-License-Identifier: Apache-2.0
"""The cache of a prompt whose owner counts the rows that left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.positions import PositionPolicy
from vidcomp.errors import UsageError

__all__ = ["PromptCache"]


class PromptCache(CompressedCache):
    """The cache of a prompt that its owner believes to be longer: lengths and positions are those of the whole."""

    is_token: Tensor
    _kept: Tensor
    _full = 0
    _shift: Tensor | None = None

    def place(self, kept: Tensor, full: int, policy: PositionPolicy, kwargs: dict[str, Any]) -> None:
        """Note which columns [S'] of the full prompt stay, and cut positions and mask of the prefill to them."""
        self._kept, self._full = kept, full
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(full, device=kept.device)[None]
        chosen = policy.ids(positions, kept)
        if policy.renumbers:
            self._shift = positions[..., -1:] - chosen[..., -1:]
        kwargs.update(position_ids=chosen, attention_mask=self._cut(kwargs.get("attention_mask")))

    def continue_with(self, kwargs: dict[str, Any]) -> None:
        """Cut mask and positions of a later forward, which are those of the full sequence."""
        positions, length = kwargs.get("position_ids"), kwargs["inputs_embeds"].shape[1]
        if positions is None:
            positions = self.get_seq_length() + torch.arange(length, device=self._kept.device)[None]
        if self._shift is not None:
            shift = self._shift if positions.dim() == self._shift.dim() else self._shift[-1]
            positions = positions - shift[..., : positions.shape[-2], :]
        kwargs.update(position_ids=positions, attention_mask=self._cut(kwargs.get("attention_mask")))

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Of a layer by number: what it holds. Without a number: what the owner of the prompt counts."""
        if layer_idx is not None:
            return int(super().get_seq_length(layer_idx))
        return int(super().get_seq_length(0)) + self._full - len(self._kept) if self.layers else 0

    def _cut(self, mask: Any) -> Any:
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise UsageError("an attention mask that was prepared elsewhere", hint="a mask [B, S], or none",
                             code="dropin")  # fmt: skip
        return torch.cat([mask[:, self._kept.to(mask.device)], mask[:, self._full :]], 1)
