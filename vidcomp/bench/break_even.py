# SPDX-License-Identifier: Apache-2.0
"""At which length of the answer compression pays: what it saves before the first token against what a token costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from vidcomp.bench.paired import MedianInterval

__all__ = ["BreakEven", "break_even"]

Kind = Literal["too few pairs", "no difference", "always", "never", "from", "up to"]
_WORDS = {
    "too few pairs": "no verdict on the length of answers, too few pairs",
    "no difference": "no difference found at any length of the answer",
    "always": "pays at any length of the answer",
    "never": "pays at no length of the answer",
}


@dataclass(frozen=True)
class BreakEven:
    """The length of answer from which compression pays.

    Attributes:
        kind: ``from`` so many new tokens on, ``up to`` so many, or the same at every length.
        tokens: how many new tokens; None where the length does not matter.
        low, high: the same for the ends of the two intervals that oppose and support it most.
    """

    kind: Kind
    tokens: int | None = None
    low: int | None = None
    high: int | None = None

    @property
    def words(self) -> str:
        """As the verdict says it."""
        if self.tokens is None:
            return _WORDS[self.kind]
        return f"pays {self.kind} {self.tokens} new tokens ({self.low}-{self.high})"

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench ask --json``."""
        return {"kind": self.kind, "tokens": self.tokens, "low": self.low, "high": self.high}


def break_even(saved: MedianInterval, faster: MedianInterval | None) -> BreakEven:
    """Weigh the two; what its pairs cannot tell from nothing counts as nothing.

    Args:
        saved: seconds saved before the first token, negative where compression costs more than it saves.
        faster: seconds saved at each later token; None when no answer has one.
    """
    if saved.bounds is None:
        return BreakEven("too few pairs")
    first, later = saved.side(0), faster.side(0) if faster else 0
    if faster is None or first * later >= 0:  # nothing is weighed against anything
        balance = first + later
        return BreakEven("always" if balance > 0 else "never" if balance < 0 else "no difference")
    kind: Kind = "up to" if first > 0 else "from"
    tokens, low, high = (_tokens(kind, steps) for steps in _even(saved, faster))
    return BreakEven(kind, tokens, low, high)


def _even(saved: MedianInterval, faster: MedianInterval) -> tuple[float, float, float]:
    """Decode steps after which both are even: by the medians, at least and at most."""
    ends = [-one / other for one in (saved.low, saved.high) for other in (faster.low, faster.high)]
    return -saved.value / faster.value, min(ends), max(ends)


def _tokens(kind: Kind, steps: float) -> int:
    """New tokens, the first of which needs no decode step: the last that still pays, or the first that does."""
    return math.ceil(steps) if kind == "up to" else math.floor(steps) + 2
