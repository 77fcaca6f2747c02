# SPDX-License-Identifier: Apache-2.0
"""DyCoke's second stage: while the answer is written, deeper layers read only the visual keys that matter now.

Paper: "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models".
Needs: at each step, the attention that the new row pays to visual keys in layer - 1.
In plain words: from ``layer`` on, a step reads the text keys and the 1 - ``prune`` of the visual keys that it looks at
most. The choice is kept for the next step while that row looks at much the same keys (cosine of at least ``gate``), and
made afresh otherwise. All keys stay in memory: this changes what is read, not what is held.
The published code clears its choice before it could be used again, so steps with a steady gaze read everything
(``official=true``), and it carries the last gaze over into the next video, which is not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import guarded_floor
from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.base import Schedule, best_rows, check_layer, layer_within

__all__ = ["DyCokeInner"]


@dataclass(frozen=True)
class DyCokeInner(Schedule):
    """Parameters, named l, P and the fixed 0.9 in the published code.

    Attributes:
        layer: first layer that reads fewer keys; l.
        prune: share of keys that is not read; P.
        gate: cosine of two steps' attention at which the choice is kept.
        official: read all keys again while the gaze is steady, as the published code does.
    """

    layer: int = 3
    prune: float = 0.7
    gate: float = 0.9
    official: bool = False

    name: ClassVar[str] = "dycoke"
    summary: ClassVar[str] = "while answering, deeper layers read only the visual keys that the new row looks at"
    source: ClassVar[Source] = Source("DyCoke", "CVPR 2025", "2411.15024", "https://github.com/KD-TAO/DyCoke")

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        check_share("prune", self.prune)
        check_share("gate", self.gate, low=-1, high=2)

    def read_from(self, depth: int) -> int:
        """The layer itself."""
        return layer_within("layer", self.layer, depth)

    def read(self, attention: Tensor, memory: dict[str, Any]) -> Tensor | None:
        """Keep the choice while the gaze is steady, else choose floor(V * (1 - prune)) keys, at least 1."""
        last: Tensor | None = memory.get("gaze")
        memory["gaze"] = attention
        steady = last is not None and bool((_cosine(attention, last) >= self.gate).all())
        if steady:
            return None if self.official else memory["choice"]
        count = max(1, guarded_floor(attention.shape[1] * (1 - self.prune)))
        chosen = memory["choice"] = best_rows(attention, count)
        return chosen


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=1)
