# SPDX-License-Identifier: Apache-2.0
"""Two ways compared pair by pair: the median of what the pairs say, and how far chance alone can move it.

The times of a busy machine have heavy tails and drift while it warms up, so nothing is assumed about them but what the
bench itself sees to: which way of a pair goes first is drawn by chance. If the ways are equally fast, each pair then
favours one or the other as a fair coin does, however the machine behaves, and a sign test is exact. Its interval lies
between two of the sorted pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CONFIDENCE", "FEWEST_PAIRS", "MedianInterval", "faster_or_slower", "median_interval", "paired_ratio"]

CONFIDENCE = 1 - 0.05 / 4  # of one interval: a verdict of four statements then errs in 5 % of runs at most


@dataclass(frozen=True)
class MedianInterval:
    """Median of paired values.

    Attributes:
        value: the median.
        low, high: its interval at :data:`CONFIDENCE`; infinite where there are fewer than :data:`FEWEST_PAIRS` pairs.
        pairs: how many there are.
    """

    value: float
    low: float
    high: float
    pairs: int

    def side(self, of: float) -> int:
        """1 when the whole interval lies above a value, -1 when below, 0 when the pairs cannot tell."""
        return (self.low > of) - (self.high < of)

    @property
    def bounds(self) -> list[float] | None:
        """[low, high] for records, None where there are too few pairs."""
        return [self.low, self.high] if math.isfinite(self.low) else None

    @property
    def range_text(self) -> str:
        """The interval to be read beside a ratio."""
        return f"{self.low:.2f}-{self.high:.2f}" if self.bounds else "too few pairs"


def median_interval(values: Sequence[float]) -> MedianInterval:
    """Median of paired ratios or differences, with the interval of the sign test.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no measurements")
    ordered, count = sorted(values), len(values)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    outside = _outside(count)
    if not outside:
        return MedianInterval(middle, -math.inf, math.inf, count)
    return MedianInterval(middle, ordered[outside - 1], ordered[-outside], count)


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> MedianInterval | None:
    """Ratio of the times of each pair, first to second; None where one of them took no time."""
    if not all(slow) or not all(fast):
        return None
    return median_interval([one / other for one, other in zip(slow, fast, strict=True)])


def faster_or_slower(ratio: MedianInterval) -> str:
    """Verdict on a ratio of times, and no more than its interval allows."""
    side = ratio.side(1)
    if ratio.bounds is None:
        return f"{ratio.value:.2f}x in {ratio.pairs} pairs, too few to tell"
    if not side:
        return f"no difference found ({ratio.range_text})"
    value, low, high = ratio.value, ratio.low, ratio.high
    if side < 0:
        value, low, high = 1 / value, 1 / high, 1 / low
    return f"{value:.2f}x {'faster' if side > 0 else 'SLOWER'} ({low:.2f}-{high:.2f})"


def _outside(count: int) -> int:
    """The k for which the k-th smallest and k-th largest value bound the median; 0 where not even the extremes do."""
    below, k = 1, 0  # of 2**count equally likely outcomes, those with at most k pairs on one side
    while 2 * below / 2**count <= 1 - CONFIDENCE:
        k += 1
        below += math.comb(count, k)
    return k


FEWEST_PAIRS = next(count for count in range(1, 64) if _outside(count))
"""Pairs below which no verdict is given."""
