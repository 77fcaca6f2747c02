"""HoliTom's inner stage: halve the visual rows once, merging each dropped row into its most similar kept row.

Source: "HoliTom: Holistic Token Merging for Fast Video Large Language Models", NeurIPS 2025, arXiv 2505.21334.
Needs: attention of the last row in layer k - 1; hidden states entering layer k.
In plain words: keep the share 1 - r of the visual rows that the last row looks at most; every other row goes to the
kept row with the largest cosine similarity; in ascending order each one moves its target half-way towards itself. The
published code lets layer k - 1 run without causal masking to obtain its attention; here only the one needed row is
computed, so layer k - 1 stays what the stock model computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vidcomp.inllm.base import scaled_layer
from vidcomp.inllm.merge import halving_merge

__all__ = ["HolitomInner"]

_PAPER_LAYER, _PAPER_DEPTH = 18, 28


@dataclass(frozen=True)
class HolitomInner:
    """Merge the share ``r`` of the visual rows before layer ``k``.

    ``k`` None takes the paper's relative depth, layer 18 of 28: ``round(18 / 28 * depth)``.
    """

    k: int | None = None
    r: float = 0.5

    name: ClassVar[str] = "holitom"

    def __post_init__(self) -> None:
        if self.k is not None and (not isinstance(self.k, int) or self.k < 1):
            raise ValueError(f"k must be a whole number of at least 1 (layer 0 is the outer stage), got {self.k}")
        if not 0 <= self.r < 1:
            raise ValueError(f"r must be in [0, 1), got {self.r}")

    def layers(self, depth: int) -> tuple[int, ...]:
        """The one layer before which rows are merged.

        Raises:
            ValueError: the decoder has no such layer.
        """
        if self.k is not None and self.k >= depth:
            raise ValueError(f"k={self.k} needs a decoder of more than {self.k} layers, this one has {depth}")
        return (self.k or scaled_layer(_PAPER_LAYER, _PAPER_DEPTH, depth),)

    def reduce(self, hidden: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """[B, V, D] and [B, V] to kept indices [B, W] and merged rows [B, W, D]; W = round(V * (1 - r)), at least 1."""
        return halving_merge(hidden, scores, self.r)
