# SPDX-License-Identifier: Apache-2.0
"""Stock attention masks, cut to the rows and keys that a layer still has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ModelError

__all__ = ["fit_mask", "text_mask"]


def fit_mask(mask: Any, columns: Tensor, rows: Tensor | None) -> Any:
    """Gather a stock mask; None stays None, for causal over an ordered subsequence is still causal."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ModelError(
            f"cannot reduce under a {type(mask).__name__}",
            why="this attention kernel hides its mask",
            hint="--attn sdpa",
        )
    columns = columns.to(mask.device)
    if mask.dim() == 2:
        return mask.expand(columns.shape[0], -1).gather(1, columns)
    mask = mask.expand(columns.shape[0], *mask.shape[1:])
    if rows is not None:
        rows = rows.to(mask.device)
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    return mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))


def text_mask(mask: Tensor | None, text: Tensor, total: int) -> Tensor:
    """The mask of the text rows [B, X] over all ``total`` keys: cut from the stock mask, or written out where that is
    None."""
    if mask is None:
        keys = torch.arange(total, device=text.device)
        return (keys <= text[..., None])[:, None]  # [B, 1, X, S]
    full: Tensor = mask.expand(text.shape[0], *mask.shape[1:])
    rows = text.to(full.device)[:, None, :, None]
    return full.gather(2, rows.expand(-1, full.shape[1], -1, full.shape[3]))
