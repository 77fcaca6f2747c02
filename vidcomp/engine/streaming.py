# SPDX-License-Identifier: Apache-2.0
"""Encoding frames while later ones are still being decoded in the child process."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vidcomp.engine.generate import memory_errors
from vidcomp.families import Encoded, Family
from vidcomp.families.layout import Layout
from vidcomp.tower.shared import SharedRows
from vidcomp.video import Partial

__all__ = ["EagerEncoder"]


class EagerEncoder:
    """Runs the vision tower on every chunk of frames as soon as it is complete.

    Chunks are those of :meth:`~vidcomp.families.Family.encode`, so the result is equal to the last bit. Pass the object
    to :func:`~vidcomp.video.read_frames` as ``on_ready``.

    Args:
        family: the model.
        signals: what its tower has to tell besides features.
        share: makes the rows that slices of a clip share in the tower; None where they share none.
    """

    def __init__(
        self, family: Family, signals: frozenset[str], share: Callable[[], SharedRows | None] = lambda: None
    ) -> None:
        self.family, self.signals, self.share = family, signals, share
        self.seconds = 0.0  # spent here, not waiting for frames
        self._pixels: NDArray[np.uint8] | None = None
        self._layout: Layout
        self._parts: list[Encoded] = []
        self._done = 0
        self._shared: SharedRows | None = None

    def __call__(self, partial: Partial) -> None:
        start = time.perf_counter()
        if partial.pixels is not self._pixels:  # the first frames, or another reader took over
            height, width = partial.pixels.shape[1:3]
            self._pixels, self._parts, self._done, self._shared = partial.pixels, [], 0, self.share()
            self._layout = self.family.layout(partial.times, height, width, partial.seconds)
        step = self.family.frames_at_once(self._layout)
        total = len(partial.pixels)
        stop = total if partial.ready == total else partial.ready // step * step
        if stop > self._done:
            with memory_errors(f"{self.family.device} for {stop - self._done} frames"):
                ready = partial.pixels[self._done : stop]
                self._parts.append(self.family.encode(ready, self.signals, self._layout, self._shared))
            self._done = stop
        self.seconds += time.perf_counter() - start

    @property
    def tower_rows(self) -> list[int]:
        """Rows that each layer of the tower read; nothing where they are not shared."""
        return self._shared.rows if self._shared else []

    def result(self) -> Encoded:
        """Features and signals of all frames, once reading is over."""
        return Encoded.joined(self._parts)
