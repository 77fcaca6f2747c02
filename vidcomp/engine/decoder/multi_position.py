# SPDX-License-Identifier: Apache-2.0
"""Rotary tables in which each part of the frequencies turns with a position of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["grouped_tables"]


def grouped_tables(
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], like: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for K positions per row.

    Frequency f of F takes the position of part floor(f * K / F); a rotary table lists the frequencies twice.

    Args:
        rotary: the decoder's own embedding, for one position per row.
        like: gives dtype and device.
        places: [K, S] int64.

    Returns:
        Two tables [1, S, 2 * F], equal to the ordinary ones for a row whose K positions are equal.
    """
    cosine, sine = rotary(like, places.to(like.device))  # [K, S, 2 * F]
    half = cosine.shape[2] // 2
    part = (torch.arange(half, device=cosine.device) * len(places) // half).repeat(2)
    index = part.expand(1, cosine.shape[1], -1)
    return cosine.gather(0, index), sine.gather(0, index)
