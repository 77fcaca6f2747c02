# SPDX-License-Identifier: Apache-2.0
"""Corners of PyAV that several modules have to go round."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

__all__ = ["demux", "discard_others", "one_thread", "reason_of"]


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a track, and an empty one at the end.

    PyAV stumbles over a packet of a track that appears on the way, and goes on behind it.
    """
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            continue


def discard_others(container: Any, stream: Any) -> None:
    """Have other tracks thrown away while they are read: sound has more packets than the pictures.

    Before PyAV 18 there is no way to ask for that; ``demux`` leaves them out as well, only later.
    """
    import av

    if not hasattr(av.stream, "Discard"):
        return
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all


@cache
def one_thread() -> dict[str, int]:
    """Arguments that keep the converter of pictures from using more threads; before PyAV 17 it knew of one only."""
    import av

    return {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


def reason_of(error: Exception) -> str:
    """FFmpeg's own reason, on one line."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:200]
