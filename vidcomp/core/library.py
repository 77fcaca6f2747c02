# SPDX-License-Identifier: Apache-2.0
"""Differences between releases of transformers: decided once, from the signatures of the installed one."""

from __future__ import annotations

import inspect

from transformers import GenerationMixin

__all__ = ["CACHE", "SUPPORTED"]

SUPPORTED = "5.17 up to 5.24"
"""Releases that the tests have run on; pyproject.toml bounds the requirement by the same numbers."""

CACHE = next(
    name
    for name in ("cache", "past_key_values")  # 5.24 renamed it everywhere; the old name lives on with a warning
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
"""Keyword under which models, layers and attention modules take the KV cache, and outputs hand it back."""
