# SPDX-License-Identifier: Apache-2.0
"""Measurements of the forward passes of one request, counted where it happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Measured"]


@dataclass
class Measured:
    """Counts per decoder layer, for the ledger.

    Attributes:
        entered: rows that entered each layer in the prefill.
        updated: rows that it updated; fewer where visual rows are frozen.
        cached: keys that it held before them, where a shared prefix is continued.
        survivors: [B, V] visual rows of the prefill that entered the layer, at layer 0 and wherever it changes.
        seconds: time that the reduction before a layer took, as far as the host sees it.
        reached: stages that ran, frozen layers, and the read layer once it chose.
        reads: visual keys held and read, per decode step.
    """

    entered: dict[int, int] = field(default_factory=dict)
    updated: dict[int, int] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    survivors: dict[int, Tensor] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    reads: list[tuple[int, int]] = field(default_factory=list)

    @contextmanager
    def reducing(self, layer: int) -> Iterator[None]:
        """Time the reduction before a layer, and note that it was reached once it is over."""
        start = time.perf_counter()
        yield
        self.seconds[layer] = time.perf_counter() - start
        self.reached.add(layer)
