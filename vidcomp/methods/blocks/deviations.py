# SPDX-License-Identifier: Apache-2.0
"""Values that stand out from the rest, by median deviation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["standing_out", "unusual_level"]

_SPREAD = 3 * 1.4826  # median deviations that make three standard deviations


def unusual_level(values: NDArray[Any]) -> float:
    """Level from which values stand out: median plus three times the spread, robustly estimated; 0 for no values."""
    if len(values) == 0:
        return 0.0
    middle = float(np.median(values))
    return middle + _SPREAD * float(np.median(np.abs(values - middle)))


def standing_out(change: NDArray[Any]) -> NDArray[np.bool_]:
    """Key frames from frame differences, for videos whose codec says nothing.

    Args:
        change: [T - 1], how much each frame after the first differs from the one before.

    Returns:
        [T] bool: the first frame, and those that differ unusually much.
    """
    return np.concatenate([[True], np.asarray(change) > unusual_level(np.asarray(change))])
