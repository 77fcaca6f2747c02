"""Attention that each patch receives in the vision tower, without attention outputs and without family code.

The config object of one attention module is swapped for a proxy that names a registered attention function. That
function sees the final queries and keys, notes how much attention each key receives, and delegates to the real kernel,
so the features stay bit-identical.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["attention_of", "encoder_layers", "probe_attention", "received_attention"]

_NAME = "vidcomp_probe"
_SCRATCH_BYTES = 32 * 2**20
_PROBING = threading.Lock()  # the swapped config is seen by every thread that runs the tower


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Mean over heads and queries of the attention that each key receives.

    Args:
        query, key: [B, heads, N, head_size] and [B, kv_heads, N, head_size].
        scaling: factor on the dot products.

    Returns:
        [B, N] float32; rows sum to 1. Queries are taken in blocks, so the temporary stays under 32 MB.
    """
    batch, heads, queries, _ = query.shape
    if key.shape[1] != heads:
        key = key.repeat_interleave(heads // key.shape[1], 1)
    received = query.new_zeros(batch, key.shape[2], dtype=torch.float32)
    block = max(1, _SCRATCH_BYTES // (4 * batch * heads * key.shape[2]))
    for start in range(0, queries, block):
        scores = (query[:, :, start : start + block] @ key.transpose(2, 3)).float() * scaling
        received += scores.softmax(-1).sum((1, 2))
    return received / (heads * queries)


class _ProbedConfig:
    """Stands in for the config of one attention module, and answers everything but the kernel's name like the real
    one."""

    def __init__(self, real: Any, sink: list[Tensor]) -> None:
        self.real, self.sink = real, sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def _attn_implementation(self) -> str:
        return _NAME


def _probe(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> Any:
    probed: _ProbedConfig = module.config
    factor = scaling if scaling is not None else float(query.shape[-1] ** -0.5)
    probed.sink.append(received_attention(query, key, factor))
    module.config = probed.real  # flash kernels are loaded by the config's name
    try:
        eager = sys.modules[type(module).__module__].eager_attention_forward
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(probed.real._attn_implementation, eager)
        return kernel(module, query, key, value, attention_mask, scaling=scaling, **rest)
    finally:
        module.config = probed


# A kernel name without a mask function would make the library drop masks silently.
AttentionInterface.register(_NAME, _probe)
AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def probe_attention(attention: Any) -> Iterator[list[Tensor]]:
    """Collect [B, N] received attention of every forward through one attention module while the block runs."""
    with _PROBING:
        real, sink = attention.config, list[Tensor]()
        attention.config = _ProbedConfig(real, sink)
        try:
            yield sink
        finally:
            attention.config = real


def encoder_layers(tower: nn.Module) -> nn.ModuleList:
    """The tower's stack of transformer layers."""
    stacks = [m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) and attention_of(m[0]) is not None]
    return max(stacks, key=len)


def attention_of(layer: nn.Module) -> Any:
    """The attention module of an encoder layer, None when it has none."""
    return next((getattr(layer, name) for name in ("self_attn", "attention", "attn") if hasattr(layer, name)), None)
