# SPDX-License-Identifier: Apache-2.0
"""The frames of an answer as two lines of small bars: how alike neighbours are, and the share of each that was kept."""

from __future__ import annotations

import codecs

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from vidcomp.core.trace import Fate, TokenTrace

__all__ = ["Timeline"]

_BARS, _DIGITS = "▁▂▃▄▅▆▇█", "01234567"
_LABELS = 10  # cells before the bars


class Timeline:
    """Bars from 0 to 1, one per slice, or per stretch of slices where the line is too short; digits without Unicode."""

    def __init__(self, trace: TokenTrace) -> None:
        self.alike = np.concatenate([[0.0], trace.similarity.clip(0, 1)])
        self.kept = (trace.fates <= Fate.LEFT).mean(1)
        self.last = trace.times[-1]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = _BARS if codecs.lookup(options.encoding).name.startswith("utf") else _DIGITS
        width = max(1, min(options.max_width - _LABELS, len(self.kept)))
        yield Text(f"alike     {_line(self.alike, width, levels)}\nkept      {_line(self.kept, width, levels)}")
        yield Text(f"          a bar per {_per(len(self.kept), width)}, 0.00 to {self.last:.2f} s")


def _line(values: NDArray[np.float64], width: int, levels: str) -> str:
    means = [part.mean() for part in np.array_split(values, width)]
    return "".join(levels[min(len(levels) - 1, int(mean * len(levels)))] for mean in means)


def _per(count: int, width: int) -> str:
    return "slice" if count == width else f"{count / width:.1f} slices"
