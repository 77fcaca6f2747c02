# SPDX-License-Identifier: Apache-2.0
"""Medians and spreads of repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """Median and 10-90 % range of repeated measurements, in seconds.

    Attributes:
        median, p10, p90: quantiles, in seconds.
        repeats: number of measurements.
    """

    median: float
    p10: float
    p90: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise measurements.

        Raises:
            ValueError: there are none.
        """
        if not seconds:
            raise ValueError("no measurements")
        p10, median, p90 = (float(v) for v in np.percentile(seconds, [10, 50, 90]))
        return cls(median, p10, p90, len(seconds))

    def to_dict(self) -> dict[str, float]:
        """As in the JSON outputs."""
        return {"median": self.median, "p10": self.p10, "p90": self.p90, "repeats": self.repeats}
