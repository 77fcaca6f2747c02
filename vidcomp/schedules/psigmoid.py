# SPDX-License-Identifier: Apache-2.0
"""P-Sigmoid: the number of visual rows falls with depth along a sigmoid that meets a budget.

Paper: "Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction".
Needs: attention of the last row in the layer before each stage.
In plain words: layer l keeps ``min(1, c / (1 + exp(a * (l / depth - b))))`` of the rows, with c chosen so that the mean
over all layers, the whole layer 0 included, is ``keep``. Steepness a and centre b can be searched:
``vidcomp calibrate psigmoid``.
Our reading: the paper's parametrisation is not known; rows leave at ``drops`` layers that divide the area under the
curve evenly, each step as high as the mean of the curve over its layers, so the budget stays the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vidcomp.core.parameters import check_share
from vidcomp.core.source import Source
from vidcomp.schedules.blocks.presets import read_preset
from vidcomp.schedules.blocks.ranked import Ranked

__all__ = ["PSigmoid", "sigmoid_shares"]


@dataclass(frozen=True)
class PSigmoid(Ranked):
    """``keep`` is the mean over all layers; ``a`` and ``b`` are read from ``file`` if it is given.

    Attributes:
        keep: mean share over all layers.
        a, b: steepness of the sigmoid, and its middle as a share of the depth.
        drops: most layers at which rows leave.
        file: preset with ``a`` and ``b``.
    """

    keep: float = 0.5
    a: float = 10.0
    b: float = 0.5
    drops: int = 4
    file: str | None = None

    name: ClassVar[str] = "psigmoid"
    summary: ClassVar[str] = "the number of rows falls with depth along a sigmoid, ranked by what the last row looks at"
    source: ClassVar[Source] = Source("P-Sigmoid", "CVPR 2025", "2412.00556")

    def __post_init__(self) -> None:
        if self.file is not None:
            for name in ("a", "b"):
                object.__setattr__(self, name, float(read_preset(self.file, self.name, name)))
            object.__setattr__(self, "file", None)  # its content is known now, and says what runs
        check_share("keep", self.keep)
        check_share("a", self.a, high=1000)
        check_share("b", self.b)
        if isinstance(self.drops, bool) or not isinstance(self.drops, int) or self.drops < 1:
            raise ValueError(f"drops must be a whole number of at least 1, got {self.drops!r}")

    def plan(self, depth: int) -> dict[int, float]:
        """At most ``drops`` layers, with falling shares."""
        curve = sigmoid_shares(depth, self.keep, self.a, self.b)[1:]
        edges = np.linspace(0, curve.sum(), min(self.drops, depth - 1) + 1)[1:-1]
        starts = np.unique(np.concatenate([[0], np.searchsorted(curve.cumsum(), edges - 1e-9) + 1]))
        parts = np.split(curve, starts[starts < len(curve)][1:])
        layers = np.cumsum([1, *(len(part) for part in parts[:-1])])
        return {int(layer): float(part.mean()) for layer, part in zip(layers, parts, strict=True) if part.mean() < 1}


def sigmoid_shares(depth: int, keep: float, a: float, b: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Share of the rows in every layer, 1 in layer 0, with mean ``keep``: [depth].

    Raises:
        ValueError: layer 0 alone costs more than the budget.
    """
    wanted = keep * depth - 1
    if wanted <= 0:
        raise ValueError(f"keep={keep} cannot be met: layer 0 of {depth} alone costs {1 / depth:.3f}")
    curve = np.array([1 / (1 + math.exp(min(700.0, a * (layer / depth - b)))) for layer in range(1, depth)])
    low, high = 0.0, 1 / curve.min()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * curve).sum() < wanted else (low, middle)
    return np.concatenate([[1.0], np.minimum(1, high * curve)])
