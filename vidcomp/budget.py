"""From the keep ratio to exact integer budgets."""

from __future__ import annotations

import math

__all__ = ["guarded_ceil", "token_budget"]

_GUARD = 1e-9  # 20 * 0.15000000000000002 must be 3, not 4


def guarded_ceil(value: float) -> int:
    """Ceiling that forgives the last bits of a product of a count and a ratio."""
    return math.ceil(value - _GUARD)


def token_budget(total: int, keep: float) -> int:
    """Number of survivors for a keep ratio: the ceiling of ``total * keep``, at least one.

    Raises:
        ValueError: keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    return min(total, max(1, guarded_ceil(total * keep)))
