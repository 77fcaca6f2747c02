"""From the keep ratio to exact integer budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["guarded_ceil", "largest_remainder", "token_budget"]

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


def largest_remainder(shares: Sequence[float], total: int, caps: Sequence[int]) -> list[int]:
    """Split ``total`` into integers proportional to ``shares``, with exact sum and upper limits.

    Ties go to the lower index. Shares of capped entries are spread over the others.

    Raises:
        ValueError: the caps cannot hold the total, or a share is negative or not finite.
    """
    if sum(caps) < total:
        raise ValueError(f"cannot place {total} tokens in places that hold {sum(caps)}")
    if any(not math.isfinite(share) or share < 0 for share in shares):
        raise ValueError("shares must be finite and not negative")
    counts = [0] * len(caps)
    while (left := total - sum(counts)) > 0:
        open_ = [i for i, cap in enumerate(caps) if counts[i] < cap]
        mass = sum(shares[i] for i in open_)
        ideal = {i: left * (shares[i] / mass if mass > 0 else 1 / len(open_)) for i in open_}
        for i in open_:
            counts[i] += min(math.floor(ideal[i]), caps[i] - counts[i])
        order = sorted(open_, key=lambda i: (math.floor(ideal[i]) - ideal[i], i))
        for i in order[: total - sum(counts)]:
            counts[i] += counts[i] < caps[i]
    return counts
