# SPDX-License-Identifier: Apache-2.0
"""From the keep ratio to exact integer budgets, and their division among frames, spans or crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["allocate", "even_split", "floor_budget", "guarded_ceil", "guarded_floor", "token_budget"]

_GUARD = 1e-9  # 20 * 0.15000000000000002 must be 3, not 4


def guarded_ceil(value: float) -> int:
    """Ceiling that forgives the last bits of a product of a count and a ratio."""
    return math.ceil(value - _GUARD)


def guarded_floor(value: float) -> int:
    """Floor that forgives the last bits of a product of a count and a ratio: 100 * 0.29 is 29."""
    return math.floor(value + _GUARD)


def token_budget(total: int, keep: float) -> int:
    """Number of survivors for a keep ratio: the ceiling of ``total * keep``, at least one.

    Raises:
        ValueError: keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    return min(total, max(1, guarded_ceil(total * keep)))


def floor_budget(total: int, keep: float) -> int:
    """As :func:`token_budget`, rounded down, as some published codes do.

    Raises:
        ValueError: keep outside (0, 1].
    """
    return max(1, min(token_budget(total, keep), guarded_floor(total * keep)))


def even_split(total: int, parts: int) -> NDArray[np.int64]:
    """``total`` in ``parts`` whole numbers that differ by at most one; the larger ones lie at equal distances."""
    edges = np.arange(parts + 1, dtype=np.int64) * total // parts
    counts: NDArray[np.int64] = np.diff(edges)
    return counts


def allocate(
    shares: Sequence[float] | NDArray[np.float64],
    total: int,
    most: Sequence[int] | NDArray[np.int64],
    least: int = 0,
) -> NDArray[np.int64]:
    """Whole numbers with an exact sum, in proportion to shares, by largest remainder.

    Every group gets ``least``; the rest is divided by shares. What a full group cannot take goes to the others by the
    same shares, and equally when all of their shares are zero. Equal remainders go to the lower index.

    Args:
        shares: [G], not negative; all zero counts as all equal.
        total: the sum, between ``G * least`` and the sum of ``most``.
        most: [G], upper limit of each group, at least ``least``.
        least: lower limit of each group.

    Returns:
        [G] int64.

    Raises:
        ValueError: no such numbers exist, or a share is negative or not finite.
    """
    weight, room = np.asarray(shares, dtype=np.float64), np.asarray(most, dtype=np.int64) - least
    spare = total - least * len(room)
    if not 0 <= spare <= room.sum() or (room < 0).any():
        raise ValueError(f"cannot give {total} to {len(room)} groups of {least} to {list(most)}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("shares must be finite and not negative")
    exact = _filled(weight, spare, room)
    counts = np.floor(exact + _GUARD).astype(np.int64)
    remainder = np.where(counts < room, np.round(exact - counts, 9), -1.0)
    counts[np.argsort(-remainder, kind="stable")[: spare - counts.sum()]] += 1
    return counts + least


def _filled(weight: NDArray[np.float64], spare: int, room: NDArray[np.int64]) -> NDArray[np.float64]:
    """Real numbers that sum to ``spare``, in proportion to the weights where no group is full."""
    filled, full = np.zeros(len(room)), room == 0
    while not full.all():
        open_weight = np.where(full, 0.0, weight)
        if not open_weight.any():
            open_weight = np.where(full, 0.0, 1.0)
        filled = np.where(full, room, open_weight / open_weight.sum() * (spare - room[full].sum()))
        over = ~full & (filled > room)
        if not over.any():
            return filled
        full |= over
    return room.astype(np.float64)
