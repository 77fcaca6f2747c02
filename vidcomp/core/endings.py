# SPDX-License-Identifier: Apache-2.0
"""The end of an answer: by itself, at its limit, in a loop, or on request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

__all__ = ["Finish", "ending_note", "finish_of", "repeated_block"]

Finish = Literal["stop", "length", "loop", "interrupted"]

_REPEATS = 3  # fewer are a figure of speech
_TOKENS = 12  # of the repetitions together, where the answer is as long


def finish_of(new: Sequence[int], ends: Collection[int], limit: int, stopped: bool) -> Finish:
    """Name the way an answer ended.

    Args:
        new: its token ids.
        ends: ids that end an answer.
        limit: the longest answer, in tokens.
        stopped: whether the caller ended it.

    Returns:
        ``interrupted`` when the caller ended it, ``stop`` when the model did, ``loop`` when it reached the limit while
        it repeated itself (:func:`repeated_block`), ``length`` when it reached the limit otherwise.
    """
    if new and new[-1] in ends:
        return "stop"
    if stopped:
        return "interrupted"
    if len(new) < limit:
        return "stop"
    return "loop" if repeated_block(new) else "length"


def repeated_block(ids: Sequence[int]) -> int:
    """Length of the block of tokens that the end of an answer repeats, 0 when it repeats none.

    The end repeats a block of p tokens when its last L tokens have period p, L >= 3 p, and L is at least 12 or the
    whole answer. The last repetition may be cut, and what came before does not matter, however long it is.
    The list "1. a cat 2. a cat" has no period, because its numbers change; "- a cat - a cat - a cat" has one.
    """
    back = list(reversed(ids))
    least, border = min(len(back), _TOKENS), [0] * len(back)
    for end in range(1, len(back)):  # border[end]: longest proper prefix of back[: end + 1] that is its suffix too
        match = border[end - 1]
        while match and back[end] != back[match]:
            match = border[match - 1]
        border[end] = match + (back[end] == back[match])
    found = 0
    for last, match in enumerate(border):
        length, period = last + 1, last + 1 - match
        if length >= least and length >= _REPEATS * period:
            found = period  # of the longest end that repeats a block
    return found


def ending_note(finish: Finish, limit: int, block: int) -> str | None:
    """Note about an answer that did not end by itself; None for one that did.

    Args:
        finish: how it ended.
        limit: the longest answer, in tokens.
        block: length of the block that it repeats.
    """
    if finish == "length":
        return f"the answer was cut at {limit} tokens (--max-new-tokens)"
    if finish == "loop":
        tokens = "one token" if block == 1 else f"{block} tokens"
        return f"the answer repeats the same {tokens} until it is cut at {limit} tokens"
    return "the answer was interrupted" if finish == "interrupted" else None
