"""What a reduction inside the language model has to say: at which layers, and what happens to the visual rows there."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

__all__ = ["Schedule", "scaled_layer"]


class Schedule(Protocol):
    """A frozen dataclass whose fields are its parameters; one file per published schedule.

    Dimension letters: B sequences, V visual rows present at the layer, W rows left, D width.
    """

    name: ClassVar[str]

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers (0-based, at least 1) before which rows are reduced, in a decoder of ``depth`` layers."""
        ...

    def reduce(self, hidden: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Decide and merge.

        Args:
            hidden: [B, V, D] visual rows entering the layer.
            scores: [B, V] attention of the last row in the layer before, mean over heads.

        Returns:
            kept [B, W] int64 ascending indices into V, and their new features [B, W, D].
        """
        ...


def scaled_layer(layer: int, made_for: int, depth: int) -> int:
    """Move a layer index to a decoder of another depth: same relative depth, rounded, between 1 and depth - 1."""
    return max(1, min(depth - 1, round(layer * depth / made_for)))
