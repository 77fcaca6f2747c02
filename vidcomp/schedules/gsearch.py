# SPDX-License-Identifier: Apache-2.0
"""G-Search: a searched number of visual rows for every layer.

Paper: "Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction".
Needs: attention of the last row in the layer before each stage.
In plain words: the ranking of rows hardly changes from layer to layer, so only the numbers matter, and they never grow
with depth. Going from shallow to deep, find for each layer the smallest share that does not hurt, with the shares of
the layers before it fixed. ``vidcomp calibrate gsearch`` does that on your own videos, with the KL divergence of the
first answer token against the plain model as the measure of harm instead of accuracy, and writes the preset file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import listed
from vidcomp.core.source import Source
from vidcomp.schedules.base import layer_within, stage_shares
from vidcomp.schedules.blocks.presets import read_preset
from vidcomp.schedules.blocks.ranked import Ranked

__all__ = ["GSearch", "search_shares"]


@dataclass(frozen=True)
class GSearch(Ranked):
    """Keep ``keep[i]`` of the first number of visual rows before layer ``at[i]``, both read from ``file`` if it is
    given."""

    file: str | None = None
    at: str | int | tuple[int, ...] | None = None
    keep: str | float | tuple[float, ...] | None = None

    name: ClassVar[str] = "gsearch"
    summary: ClassVar[str] = "a searched number of rows per layer, ranked by what the last row looks at"
    source: ClassVar[Source] = Source("G-Search", "CVPR 2025", "2412.00556")

    def __post_init__(self) -> None:
        given = self.at is not None and self.keep is not None
        if (self.file is None) != given:
            raise ValueError("gsearch needs file=PRESET (see: vidcomp calibrate gsearch), or at= and keep=")
        at, keep = self._read() if self.file else (self.at, self.keep)
        shares = stage_shares(at, keep, 0)
        if list(shares) != sorted(shares, reverse=True):
            raise ValueError(f"keep cannot grow with depth, got {shares}")
        object.__setattr__(self, "at", listed("at", at, int))
        object.__setattr__(self, "keep", shares)
        object.__setattr__(self, "file", None)  # its content is known now, and says what runs

    def _read(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        assert self.file is not None
        counts = read_preset(self.file, self.name, "keep")
        if not isinstance(counts, dict) or not counts:
            raise ValueError(f"{self.file}: keep must map layers to shares")
        return tuple(int(layer) for layer in counts), tuple(float(share) for share in counts.values())

    def plan(self, depth: int) -> dict[int, float]:
        """The layers of the preset."""
        assert isinstance(self.at, tuple) and isinstance(self.keep, tuple)
        return {layer_within("at", layer, depth): share for layer, share in zip(self.at, self.keep, strict=True)}


def search_shares(
    layers: tuple[int, ...], harm: Callable[[dict[int, float]], float], allowed: float, steps: int = 5
) -> dict[int, float]:
    """The greedy search: for each layer in turn the smallest share whose harm is allowed, by bisection.

    Args:
        layers: where rows may leave, ascending.
        harm: what a plan does, larger is worse; not called with the empty plan.
        allowed: largest harm.
        steps: halvings of the interval, so shares are exact to 2**-steps of the share before.

    Returns:
        Layer -> share of the first number, falling; layers at which nothing can go are left out.
    """
    found: dict[int, float] = {}
    before = 1.0
    for layer in layers:
        low, high = 0.0, before
        for _ in range(steps):
            middle = (low + high) / 2
            low, high = (low, middle) if harm({**found, layer: middle}) <= allowed else (middle, high)
        if high < before:
            found[layer] = before = high
    return found
