# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity between tokens of a frame, a span or a video, in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.tokens import Span
from vidcomp.methods.blocks.equal import first_equal, first_of_same
from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["nearest_kept", "unit_rows"]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows [..., D] of any float dtype scaled to length one, in float32; a zero row stays zero."""
    wide = rows.float()
    wide = wide / wide.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return wide / wide.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=1e-20)


def nearest_kept(features: Tensor, kept: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """For every token the kept token of its span with the largest cosine; a kept token is its own.

    Args:
        features: [T, N, D].
        kept: [T, N] bool.
        spans: cover all frames.

    Returns:
        [T * N] int64 flat index of a kept token, -1 in a span without any. Of equals the lowest index is taken.
    """
    total, tokens = kept.numel(), kept.shape[1]
    rows, chosen = features.reshape(total, -1), kept.reshape(total)
    owner = torch.where(chosen, torch.arange(total, device=rows.device), -1)
    first = first_equal(rows)
    step = max(1, block_bytes(rows.device) // (4 * rows.shape[1]))
    for span in spans:
        low, high = span.start * tokens, (span.end + 1) * tokens
        inside = chosen[low:high].nonzero()[:, 0] + low
        others = (~chosen[low:high]).nonzero()[:, 0] + low
        if inside.numel() == 0 or others.numel() == 0:
            continue
        copies = first_of_same(first[inside]) != torch.arange(inside.numel(), device=rows.device)
        targets = unit_rows(rows[inside])
        for part in torch.split(others, step):
            cosine = (unit_rows(rows[part]) @ targets.T).masked_fill_(copies, -torch.inf)
            owner[part] = inside[cosine.argmax(dim=1)]
    return owner
