# SPDX-License-Identifier: Apache-2.0
"""Sampling rules of the families' own processors, as arithmetic on frame numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["StockRule"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class StockRule:
    """Sampling rule of a model family's own processor for a video of N frames, for ``--sample model``.

    Attributes:
        spacing: ``"arange"`` takes floor(i * N / n), ``"linspace"`` rounds i * (N - 1) / (n - 1), ``"floor"`` floors
        it.
        frames: n; None computes it from ``fps``.
        fps: n = int(N / rate * fps); with neither, every frame is taken.
        min_frames, max_frames: bounds of an n that comes from ``fps``.
        multiple: n is rounded down to a multiple of this (frames that the model joins).
        shift: ``"arange"`` starts at this frame; -1 starts in the middle of the first step.
        skip_seconds: left out at both ends of videos longer than ``frames * fps + 2 * skip_seconds`` seconds.
        cap_by_rate: n is at most round(fps * seconds) even when ``frames`` is given.
    """

    spacing: Literal["arange", "linspace", "floor"] = "arange"
    frames: int | None = None
    fps: float | None = None
    min_frames: int = 1
    max_frames: int = 4096
    multiple: int = 1
    shift: float = 0.0
    skip_seconds: float = 0.0
    cap_by_rate: bool = False

    def choose(self, total: int, seconds: float) -> Indices:
        """int64 ``[T]`` increasing indices into ``total`` frames that last ``seconds``."""
        count = self._count(total, seconds)
        first, last = self._ends(total, seconds)
        if self.spacing == "arange":
            step = total / count
            start = step / 2 if self.shift < 0 else self.shift
            places = np.arange(start, total, step)
        else:
            places = np.linspace(first, last, count)
            places = places.round() if self.spacing == "linspace" else places
        return np.unique(places.astype(np.int64).clip(0, total - 1))

    def _count(self, total: int, seconds: float) -> int:
        count = total if self.frames is None else self.frames
        if self.frames is None and self.fps is not None:
            rate = total / seconds if seconds else 1.0
            count = max(int(total / rate * self.fps), self.min_frames)
            count = min(count, self.max_frames)
        elif self.cap_by_rate and self.fps is not None:
            count = min(count, round(self.fps * seconds))
        count = min(count, total)
        return max(count // self.multiple * self.multiple, 1)

    def _ends(self, total: int, seconds: float) -> tuple[int, int]:
        if not self.skip_seconds or seconds - 2 * self.skip_seconds <= (self.frames or 0) * (self.fps or 1):
            return 0, total - 1
        skipped = self.skip_seconds * total / seconds
        first, last = int(skipped), min(int(total - skipped), total - 1)
        return (first, last) if first < last else (0, total - 1)
