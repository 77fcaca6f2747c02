# SPDX-License-Identifier: Apache-2.0
"""What the configurations of several families share."""

from __future__ import annotations

from typing import Any


def pinpoints(side: int, n: int) -> list[list[int]]:
    """Picture sizes of up to n by n tiles."""
    return [[side * r, side * c] for r in range(1, n + 1) for c in range(1, n + 1)]


OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]
RESCALE = 0.00392156862745098  # 1/255 as the hub files spell it

TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6,
                        "num_key_value_heads": 2}


def gen_from_config(bos: Any, eos: Any, pad: int | None = None, version: str = "4.45.0.dev0") -> dict[str, Any]:
    """A generation_config.json as conversion scripts wrote it."""
    g = {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": eos}
    if pad is not None:
        g["pad_token_id"] = pad
    return {**g, "transformers_version": version}
