# SPDX-License-Identifier: Apache-2.0
"""Choice of frames: key frames of the video codec with evenly spaced ones between them.

Source: "KFFocus: Highlighting Keyframes for Enhanced Video Understanding", arXiv 2508.08989. Its code is not public;
the rule for gaps is known from an independent implementation. What happens before the first and after the last key
frame, and under a limit, is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["KeyTimes", "key_times"]

_HEAD = 0.05  # seconds: a first key frame later than this leaves the start unseen
_PER_SECOND = 2.0  # more key frames than this say nothing about the content


@dataclass(frozen=True)
class KeyTimes:
    """Times in seconds, ascending: of key frames, and of frames added in the gaps between them.

    Attributes:
        keys: of key frames.
        added: of frames added between them.
    """

    keys: tuple[float, ...]
    added: tuple[float, ...]


def key_times(intra: Sequence[float], duration: float, limit: int | None = None, delta: float = 0.05) -> KeyTimes:
    """Frames that leave no stretch longer than ``delta * duration`` unseen.

    Codec key frames say something about the content when there are at least two and at most two per second; otherwise
    only the evenly spaced ones are taken. The start counts as a key frame when the first one is late; the end only as
    the end of the last gap. A gap of length g gets floor(g / (delta * duration)) frames at equal distances.

    Args:
        intra: presentation times of the intra-coded frames, in any order.
        duration: of the video, in seconds.
        limit: most frames in all. Key frames go first where neighbours are nearest; added ones come where the steps
            are widest, evenly within each gap.
        delta: longest unseen stretch, as a share of the duration.

    Raises:
        ValueError: a duration or delta not above zero, or a limit below one.
    """
    if not (duration > 0 and 0 < delta <= 1 and (limit is None or limit >= 1)):
        raise ValueError(f"duration and delta must be above 0, limit at least 1; got {duration}, {delta}, {limit}")
    keys = sorted({float(time) for time in intra if 0 <= time <= duration})
    if len(keys) < 2 or len(keys) > _PER_SECOND * duration:
        keys = []
    if not keys or keys[0] > _HEAD:
        keys.insert(0, 0.0)
    keys = _thinned(keys, duration, len(keys) if limit is None else limit)
    return KeyTimes(tuple(keys), tuple(_between(keys, duration, delta, None if limit is None else limit - len(keys))))


def _thinned(keys: list[float], duration: float, most: int) -> list[float]:
    """At most ``most`` times: the one goes whose absence leaves the shortest gap, and so on; the first one stays.

    Equal gaps: the earlier one goes.
    """
    left = list(keys)
    while len(left) > most:
        edges = np.array([*left, duration])
        left.pop(1 + int((edges[2:] - edges[:-2]).argmin()))
    return left


def _between(keys: list[float], duration: float, delta: float, room: int | None) -> list[float]:
    """Times to add between key frames and after the last one; with little room, where the widest steps are left."""
    ends = np.array([*keys, duration])
    gaps = np.diff(ends)
    most = (gaps / (delta * duration) + 1e-9).astype(np.int64)
    counts = most if room is None or room >= most.sum() else np.zeros_like(most)
    while room is not None and counts.sum() < min(room, most.sum()):
        counts[np.where(counts < most, gaps / (counts + 1), -1.0).argmax()] += 1
    return [
        float(start + gap * (i + 1) / (count + 1))
        for start, gap, count in zip(keys, gaps, counts, strict=True)
        for i in range(count)
    ]
