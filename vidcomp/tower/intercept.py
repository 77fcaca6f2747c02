# SPDX-License-Identifier: Apache-2.0
"""Attention of a stock layer, handed to another function that may look, or compute it otherwise.

The swap is one attribute of the attention module: its config, which names a kernel that is registered here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["INTERCEPTING", "Attend", "intercepted"]

_NAME = "vidcomp"

Attend = Callable[..., Any]
"""``(kernel, query, key, value, attention_mask, **rest)``, where ``kernel`` takes the same without itself."""

INTERCEPTING = threading.RLock()
"""To be held while a config is swapped, since every thread that runs the tower sees it."""


class _InterceptedConfig:
    """Stands in for the config of one attention module, and answers everything but the kernel's name like the real
    one."""

    def __init__(self, real: Any, attend: Attend) -> None:
        self.real, self.attend = real, attend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def _attn_implementation(self) -> str:
        return _NAME


def _intercept(module: Any, *tensors: Any, **rest: Any) -> Any:
    config: _InterceptedConfig = module.config
    module.config = config.real  # flash kernels are loaded by the config's name
    try:
        eager = sys.modules[type(module).__module__].eager_attention_forward
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(config.real._attn_implementation, eager)
        return config.attend(partial(kernel, module), *tensors, **rest)
    finally:
        module.config = config


# A kernel name without a mask function would make the library drop masks silently.
AttentionInterface.register(_NAME, _intercept)
AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def intercepted(attention: Any, attend: Attend) -> Iterator[None]:
    """Let ``attend`` compute every forward through one attention module while the block runs; needs the lock."""
    real = attention.config
    attention.config = _InterceptedConfig(real, attend)
    try:
        yield
    finally:
        attention.config = real
