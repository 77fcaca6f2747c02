# SPDX-License-Identifier: Apache-2.0
"""Encoding frames while later ones are still being decoded in the child process."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from vidcomp.engine.generate import memory_errors
from vidcomp.families import Encoded, Family
from vidcomp.families.layout import Layout
from vidcomp.video import Partial

__all__ = ["EagerEncoder"]


class EagerEncoder:
    """Runs the vision tower on every chunk of frames as soon as it is complete.

    Chunks are those of :meth:`~vidcomp.families.Family.encode`, so the result is equal to the last bit. Pass the object
    to :func:`~vidcomp.video.read_frames` as ``on_ready``.

    Args:
        family: the model.
        signals: what its tower has to tell besides features.
    """

    def __init__(self, family: Family, signals: frozenset[str]) -> None:
        self.family, self.signals = family, signals
        self.seconds = 0.0  # spent here, not waiting for frames
        self._pixels: NDArray[np.uint8] | None = None
        self._layout: Layout
        self._parts: list[Encoded] = []
        self._done = 0

    def __call__(self, partial: Partial) -> None:
        start = time.perf_counter()
        if partial.pixels is not self._pixels:  # the first frames, or another reader took over
            height, width = partial.pixels.shape[1:3]
            self._pixels, self._parts, self._done = partial.pixels, [], 0
            self._layout = self.family.layout(partial.times, height, width, partial.seconds)
        step = self.family.frames_at_once(self._layout)
        total = len(partial.pixels)
        stop = total if partial.ready == total else partial.ready // step * step
        if stop > self._done:
            with memory_errors(f"{self.family.device} for {stop - self._done} frames"):
                self._parts.append(self.family.encode(partial.pixels[self._done : stop], self.signals, self._layout))
            self._done = stop
        self.seconds += time.perf_counter() - start

    def result(self) -> Encoded:
        """Features and signals of all frames, once reading is over."""
        return Encoded.joined(self._parts)
