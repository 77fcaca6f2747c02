# SPDX-License-Identifier: Apache-2.0
"""ShortV: visual rows pass unchanged through the layers that do little to them; none is dropped.

In plain words: in a frozen layer only text rows are updated; they still read the keys and values of the visual rows,
computed from unchanged states. The cache stays complete and decoding is as before, so this saves prefill arithmetic
and no memory. Which layers: those whose freezing changes the next-token distribution least, found by
``vidcomp calibrate shortv`` on your own videos, or the published orders of four checkpoints. Without either the last
layers are frozen first, as all published orders begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.parameters import listed
from vidcomp.core.source import Source
from vidcomp.schedules.base import Schedule
from vidcomp.schedules.blocks.presets import read_preset

__all__ = ["PUBLISHED_ORDERS", "ShortV"]

_SHARE = 0.6  # of the layers, published

PUBLISHED_ORDERS: dict[str, tuple[int, ...]] = {
    "llava-1.5-7b": (31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19),
    "llava-1.5-13b": (39, 32, 28, 36, 27, 37, 29, 30, 1, 38, 25, 31, 2, 26, 23, 34, 0, 33, 35, 22, 24, 21, 20, 17),
    "llava-next-7b": (31, 29, 30, 28, 26, 27, 22, 24, 21, 23, 25, 20, 19, 17, 18, 15, 12, 0, 2),
    "llava-next-13b": (39, 32, 29, 36, 27, 30, 37, 23, 25, 31, 26, 2, 28, 22, 33, 35, 34, 24, 38, 21, 20, 18, 1, 17),
}
"""Layers in the order in which they are frozen."""


@dataclass(frozen=True)
class ShortV(Schedule):
    """Freeze the first ``n`` layers of an order.

    Attributes:
        n: how many; None is 0.6 of the depth, rounded, at most as many as the order names.
        order: layers like ``31/29/30``, the name of a published order, or None for the last layers first.
        file: preset that holds the order.
    """

    n: int | None = None
    order: str | int | tuple[int, ...] | None = None
    file: str | None = None

    name: ClassVar[str] = "shortv"
    summary: ClassVar[str] = "visual rows pass unchanged through the layers that do little to them; none is dropped"
    source: ClassVar[Source] = Source("ShortV", "ICCV 2025", "2504.00502", "https://github.com/icip-cas/ShortV")
    attends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.n is not None and (isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1):
            raise ValueError(f"n must be a whole number of at least 1, got {self.n!r}")
        if self.file is not None and self.order is not None:
            raise ValueError("order and file both say which layers; give one")
        order = read_preset(self.file, self.name, "order") if self.file else self.order
        if isinstance(order, str) and order in PUBLISHED_ORDERS:
            order = PUBLISHED_ORDERS[order]
        try:
            layers = listed("order", order, int)
        except ValueError as error:
            raise ValueError(f"{error}; or one of {', '.join(PUBLISHED_ORDERS)}") from error
        if layers is not None and len(set(layers)) != len(layers):
            raise ValueError("order names a layer twice")
        object.__setattr__(self, "order", layers)
        object.__setattr__(self, "file", None)  # its content is known now, and says what runs

    def frozen(self, depth: int) -> frozenset[int]:
        """The layers that visual rows pass unchanged.

        Raises:
            ValueError: the order names a layer that the decoder does not have, or too few.
        """
        order = tuple(range(depth - 1, -1, -1)) if self.order is None else self.order
        assert isinstance(order, tuple)
        outside = [layer for layer in order if not 0 <= layer < depth]
        if outside:
            raise ValueError(f"order names layer {outside[0]}, this decoder has {depth}")
        count = min(len(order), round(_SHARE * depth)) if self.n is None else self.n
        if count > len(order):
            raise ValueError(f"n={count} layers to freeze, the order names {len(order)}")
        return frozenset(order[:count])
