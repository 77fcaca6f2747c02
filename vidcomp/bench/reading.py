# SPDX-License-Identifier: Apache-2.0
"""Expectations of a model at every token of a given answer."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.library import CACHE
from vidcomp.engine.generate import Prefill
from vidcomp.families import Family

__all__ = ["expectations"]


@torch.no_grad()
def expectations(family: Family, prefill: Prefill, answer: Tensor) -> Tensor:
    """Log-probabilities behind the prompt and behind each token of an answer, which is fed in one pass.

    Args:
        family: the model.
        prefill: rows, positions and an empty cache, which is filled.
        answer: [n] token ids.

    Returns:
        [n + 1, V] float32.
    """
    model = family.model
    decoder, cache = model.get_decoder(), prefill.cache
    rows = prefill.rows[None].to(model.dtype)
    hidden = decoder(inputs_embeds=rows, position_ids=prefill.positions, **{CACHE: cache}).last_hidden_state[:, -1:]
    if answer.numel():
        places = prefill.positions[..., -1:] + 1 + torch.arange(answer.numel(), device=prefill.positions.device)
        seen = torch.ones(1, rows.shape[1] + answer.numel(), dtype=torch.long, device=rows.device)
        later = decoder(
            input_ids=answer[None].to(rows.device), position_ids=places, attention_mask=seen, **{CACHE: cache}
        ).last_hidden_state
        hidden = torch.cat([hidden, later], 1)
    logs: Tensor = model.lm_head(hidden)[0].float().log_softmax(-1)
    return logs
