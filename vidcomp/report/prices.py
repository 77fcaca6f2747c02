# SPDX-License-Identifier: Apache-2.0
"""Cost of a clip in published models, from their sizes alone: nothing is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vidcomp.config import VideoConfig
from vidcomp.core.published import PUBLISHED
from vidcomp.report.accounting import prefill_cost
from vidcomp.video.options import sampling_of
from vidcomp.video.probe import Probe

__all__ = ["Price", "prices"]

CUSTOMARY_FRAMES = 32


@dataclass(frozen=True)
class Price:
    """One model: frames, visual tokens, and what prefilling them costs (text and markers not counted).

    Attributes:
        model: short name of the model.
        checkpoint: its name on the hub.
        frames: sampled frames.
        tokens: visual tokens.
        kv_bytes: of the KV cache.
        prefill_flops: multiply-adds.
    """

    model: str
    checkpoint: str
    frames: int
    tokens: int
    kv_bytes: int
    prefill_flops: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def prices(found: Probe, video: VideoConfig) -> list[Price] | None:
    """The price of a clip in every published model, at the chosen sampling; None when its size is not known."""
    if not (found.width and found.height):
        return None
    rows = []
    for name, model in PUBLISHED.items():
        frames = max(1, found.sampled(sampling_of(video, CUSTOMARY_FRAMES, model.stock)))
        tokens = model.tokens(frames, found.height, found.width)
        cost = prefill_cost(model.shape, [tokens] * model.shape.layers)
        rows.append(Price(name, model.checkpoint, frames, tokens, cost.kv_bytes, cost.flops))
    return rows
