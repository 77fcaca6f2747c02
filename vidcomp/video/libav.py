"""Corners of PyAV that several modules have to go round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["demux", "reason_of"]


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


def reason_of(error: Exception) -> str:
    """What FFmpeg says went wrong, on one line."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:200]
