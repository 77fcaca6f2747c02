# SPDX-License-Identifier: Apache-2.0
"""Macro accuracy over question types, with intervals that respect that questions about one video hang together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Marks", "bootstrap", "mcnemar"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Marks:
    """Right and wrong answers of one setting.

    Attributes:
        right: [Q] bool.
        kind: [Q] index of the question's type.
        video: [Q] index of the video.
    """

    right: NDArray[np.bool_]
    kind: NDArray[np.int64]
    video: NDArray[np.int64]

    def tables(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Right answers and questions, [videos, types] each."""
        shape = (int(self.video.max()) + 1, int(self.kind.max()) + 1)
        right, asked = np.zeros(shape), np.zeros(shape)
        np.add.at(asked, (self.video, self.kind), 1)
        np.add.at(right, (self.video, self.kind), self.right)
        return right, asked

    @property
    def macro(self) -> float:
        """Mean over types of the share that is right."""
        return float(_macro(*(table.sum(0, keepdims=True) for table in self.tables()))[0])


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def bootstrap(marks: Marks, against: Marks | None = None, seed: int = 0) -> Interval:
    """95 % interval of the macro accuracy, or of its difference to another setting on the same questions.

    Videos are drawn with replacement, all their questions with them.
    """
    right, asked = marks.tables()
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(right), np.full(len(right), 1 / len(right)), size=_RESAMPLES).astype(float)
    values = _macro(draws @ right, draws @ asked)
    centre = marks.macro
    if against is not None:
        other, _ = against.tables()
        values = values - _macro(draws @ other, draws @ asked)
        centre -= against.macro
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(centre, float(low), float(high))


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Exact two-sided p of McNemar's test on paired answers; 1 when they never differ."""
    gained, lost = int((one & ~other).sum()), int((~one & other).sum())
    count = gained + lost
    if count == 0:
        return 1.0
    tail = sum(math.comb(count, i) for i in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _macro(right: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draws, types] to [draws]; a type that a draw missed does not count in it."""
    share: NDArray[np.float64] = np.divide(right, asked, out=np.zeros_like(right), where=asked > 0)
    types = (asked > 0).sum(1)
    mean: NDArray[np.float64] = np.divide(share.sum(1), types, out=np.full(len(types), np.nan), where=types > 0)
    return mean
