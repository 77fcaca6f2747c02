# SPDX-License-Identifier: Apache-2.0
"""Checks of parameters that schedules and mergers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_choice", "check_share", "listed"]


def listed(name: str, value: Any, kind: type) -> tuple[Any, ...] | None:
    """A parameter that holds several numbers: a tuple or list of them, one number, or text like ``8/16/24``.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return None
    parts = value.split("/") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else (value,)
    try:
        numbers = tuple(kind(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or any(kind is int and float(part) != number for part, number in zip(parts, numbers, strict=True)):
        raise ValueError(f"{name} must be numbers, written 8/16/24 or (8, 16, 24), got {value!r}")
    return numbers


def check_share(name: str, *values: Any, low: float = 0.0, high: float = 1.0) -> None:
    """Raise ValueError unless every value is a number from ``low`` to ``high``."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
