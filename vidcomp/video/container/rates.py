# SPDX-License-Identifier: Apache-2.0
"""Rate of pictures where a container does not tell the time of each.

- A raw stream has no container. Its pictures come at the rate that the stream itself states (timing information of
  H.264 and HEVC, the sequence header of MPEG and VC-1). Without one FFmpeg's demuxers assume 25 a second, and so do we.
- An AVI tells the place of each picture among equal steps, in decoding order, and no presentation time. FFmpeg guesses
  these where there are B-frames. The pictures are shown in the same steps in which their packets come.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

__all__ = ["Rate", "is_filled", "is_paced", "is_raw", "stream_rate"]

ASSUMED = Fraction(25)
SLOWEST, FASTEST = Fraction(1, 3600), Fraction(1000)  # pictures per second that a stream may state
UNFILLED = 1 << 28  # a count of pictures from here on was never filled in: a hundred days of video
Y4M_RATE = re.compile(rb" F([1-9]\d*):([1-9]\d*)")
HEAD_BYTES = 256
Y4M = "yuv4mpegpipe"


class Rate(NamedTuple):
    """Pictures per second, and whether that is only assumed because the file does not tell."""

    value: Fraction
    guessed: bool = False


def is_raw(container: Any) -> bool:
    """True for a stream without a container: what FFmpeg gives as its times comes from a rate."""
    from av.format import Flags

    return bool(container.format.flags & Flags.no_timestamps.value)


def is_paced(container: Any) -> bool:
    """True where FFmpeg's times come from one rate for the whole file."""
    return is_raw(container) or container.format.name == Y4M


def stream_rate(container: Any, stream: Any) -> Rate:
    """The rate of a picture track, for files that do not tell the time of every picture."""
    if container.format.name == Y4M:
        return _y4m_rate(container.name)
    stated = [stream.codec_context.framerate]
    if not is_raw(container):  # there, these are what its demuxer assumes
        stated += [stream.average_rate, stream.guessed_rate]
    good = (Fraction(rate) for rate in stated if rate and SLOWEST <= rate <= FASTEST)
    value = next(good, None)
    return Rate(ASSUMED, guessed=True) if value is None else Rate(value)


def is_filled(count: int) -> bool:
    """True if a header's count of pictures was filled in: a writer into a pipe cannot go back to do so."""
    return 0 < count < UNFILLED


def _y4m_rate(path: str) -> Rate:
    with open(path, "rb") as file:
        found = Y4M_RATE.search(file.read(HEAD_BYTES).split(b"\n")[0])
    return Rate(Fraction(int(found[1]), int(found[2]))) if found else Rate(ASSUMED, guessed=True)
