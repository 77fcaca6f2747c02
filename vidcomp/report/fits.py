# SPDX-License-Identifier: Apache-2.0
"""Published models, formats and numbers of frames that fit into a memory, estimated from sizes: nothing is loaded.

    bytes = weights + KV cache of the visual tokens + working memory

Weights are the checkpoint's parameters in the given format; 8 and 4 bits hold for the decoder layers, the rest stays in
two bytes. Working memory is half a GiB for the library and its kernels, and what one decoder layer computes for the
tokens that enter (its states and its MLP). What other programs hold is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vidcomp.core.architectures import ARCHITECTURES, ModelShape
from vidcomp.core.budget import token_budget
from vidcomp.core.published import PUBLISHED, Published
from vidcomp.report.accounting import prefill_cost

__all__ = ["FORMATS", "FRAMES", "Fit", "fits"]

FORMATS = {"bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5}
"""Bytes that a weight of a decoder layer takes."""

FRAMES = (8, 16, 32, 64, 128, 256, 512)
"""Numbers of frames that are tried."""

_LIBRARY = 1 << 29


@dataclass(frozen=True)
class Fit:
    """One model in one format.

    Attributes:
        model: short name.
        checkpoint: hub id.
        format: of the weights.
        weight_bytes: what they take.
        frames: most frames of :data:`FRAMES` that fit with every token kept, 0 for none.
        frames_compressed: most frames with the given share kept.
    """

    model: str
    checkpoint: str
    format: str
    weight_bytes: int
    frames: int
    frames_compressed: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def fits(memory: int, keep: float, height: int = 720, width: int = 1280) -> Iterator[Fit]:
    """Every published model in every format that fits with at least eight frames, largest model first.

    Args:
        memory: bytes of the device.
        keep: share of the visual tokens that enters the language model.
        height, width: pixels of the clip.
    """
    for name in sorted(PUBLISHED, key=lambda name: -ARCHITECTURES[name].billions):
        model = PUBLISHED[name]
        for form, bytes_per_weight in FORMATS.items():
            weights = _weight_bytes(ARCHITECTURES[name].billions, model.shape, bytes_per_weight)
            left = memory - weights - _LIBRARY
            whole, compressed = (_most_frames(model, left, share, height, width) for share in (1.0, keep))
            if compressed:
                yield Fit(name, model.checkpoint, form, weights, whole, compressed)


def _weight_bytes(billions: float, shape: ModelShape, bytes_per_weight: float) -> int:
    query, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    decoder = shape.layers * shape.width * (2 * query + 2 * keys + 3 * shape.mlp_width)
    return round((billions * 1e9 - decoder) * 2 + decoder * bytes_per_weight)


def _most_frames(model: Published, left: int, keep: float, height: int, width: int) -> int:
    """The most frames whose cache and working memory fit into ``left`` bytes."""
    fitting = 0
    for frames in FRAMES:
        rows = token_budget(model.tokens(frames, height, width), keep)
        cache = prefill_cost(model.shape, [rows] * model.shape.layers).kv_bytes
        working = rows * 2 * (4 * model.shape.width + 3 * model.shape.mlp_width)
        fitting = frames if cache + working <= left else fitting
    return fitting
