# SPDX-License-Identifier: Apache-2.0
"""Pieces of a video of a greatest length, for methods that look at so many frames at a time."""

from __future__ import annotations

from collections.abc import Sequence

from vidcomp.core.tokens import Span

__all__ = ["pieces"]


def pieces(frames: int, size: int, given: Sequence[Span] = ()) -> tuple[Span, ...]:
    """Cut ``frames`` frames into spans of ``size``; a new one begins where a given span does, so some are shorter."""
    bounds = given or (Span(0, frames - 1),)
    return tuple(
        Span(low, min(low + size - 1, span.end)) for span in bounds for low in range(span.start, span.end + 1, size)
    )
