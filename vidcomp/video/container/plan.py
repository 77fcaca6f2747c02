# SPDX-License-Identifier: Apache-2.0
"""The packets to decode: go on from where the decoder stands, or jump to the key frame before the next wanted frame.

Pure arithmetic on a packet scan. A jump costs a seek and a cold decoder, about as much as a few frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.scan import Scan

__all__ = ["Segment", "cheaper_frames", "decoded_frames", "segments"]

JUMP_FRAMES = 12  # a jump has to save more decoded frames than this


@dataclass(frozen=True)
class Segment:
    """Wanted frames that one run of the decoder gives.

    Attributes:
        key: the frame at which decoding starts.
        wanted: increasing indices, all at or after ``key``.
    """

    key: int
    wanted: tuple[int, ...]


def segments(scan: Scan, indices: Sequence[int], starts: NDArray[np.bool_] | None) -> list[Segment]:
    """Split wanted frames into runs.

    Args:
        indices: strictly increasing.
        starts: bool ``[N]``, frames at which this reader may start; None when it cannot jump at all.
    """
    found: list[tuple[int, list[int]]] = []
    possible = np.flatnonzero(starts) if starts is not None else np.empty(0, np.int64)
    previous = 0
    for index in indices:
        at = int(np.searchsorted(possible, index, side="right")) - 1
        key = int(possible[at]) if at >= 0 else 0
        saved = int(scan.order[key]) - int(scan.order[previous])
        if not found or (key > previous and saved > JUMP_FRAMES):
            found.append((key if saved > JUMP_FRAMES else 0, [index]))
        else:
            found[-1][1].append(index)
        previous = index
    return [Segment(key, tuple(wanted)) for key, wanted in found]


def decoded_frames(scan: Scan, plan: Sequence[Segment]) -> int:
    """Number of packets that a plan decodes."""
    return sum(int(max(scan.order[i] for i in part.wanted) - scan.order[part.key]) + 1 for part in plan)


def cheaper_frames(
    scan: Scan, indices: NDArray[np.int64], bounds: tuple[int, int], fps: float | None = None
) -> NDArray[np.int64]:
    """Move frames by at most a quarter of the sampling step so that less has to be decoded, for ``--seek fast``.

    A frame moves to the nearest key frame. Where none is near enough, the last frame of a run of the decoder is taken
    as early as allowed, if that spares at least an eighth of the run.

    Args:
        indices: int64 ``[T]``, strictly increasing.
        bounds: first frame that may be taken, and the one behind the last.
        fps: the rate of sampling, when that was asked for: a gap in the file makes the average step a longer one.

    Returns:
        int64 ``[T]``, strictly increasing.
    """
    keys, ticks = np.flatnonzero(scan.keys), scan.timeline.ticks
    near = keys[(keys >= bounds[0]) & (keys < bounds[1])]
    if not len(keys) or len(indices) < 2:
        return indices
    tolerance = float(ticks[indices[-1]] - ticks[indices[0]]) / (len(indices) - 1) / 4
    if fps is not None:
        tolerance = min(tolerance, 1 / fps / 4 / float(scan.timeline.base))
    moved = _snapped(ticks, near, indices, tolerance) if len(near) else indices
    starts = keys[(np.searchsorted(keys, moved, side="right") - 1).clip(0)]  # [T] where decoding begins
    last = np.append(starts[1:] > starts[:-1], True)
    pays = ticks[moved] - ticks[starts] <= 8 * tolerance
    early = np.searchsorted(ticks, ticks[indices] - tolerance)
    early = np.maximum(early, np.append(bounds[0], moved[:-1] + 1))
    return np.where(last & pays & (moved == indices) & ~scan.keys[moved], early, moved)


def _snapped(
    ticks: NDArray[np.int64], keys: NDArray[np.int64], indices: NDArray[np.int64], tolerance: float
) -> NDArray[np.int64]:
    """Each frame, or the nearest key frame within ``tolerance`` ticks unless two frames would meet there."""
    right = np.searchsorted(ticks[keys], ticks[indices]).clip(0, len(keys) - 1)
    left = (right - 1).clip(0)
    distance = np.abs(ticks[keys[[left, right]]] - ticks[indices])  # [2, T]
    nearest = keys[np.where(distance[0] <= distance[1], left, right)]
    moved = np.where(distance.min(0) <= tolerance, nearest, indices)
    while (clash := np.flatnonzero(np.diff(moved) <= 0)).size:  # keys closer together than samples
        both = np.concatenate([clash, clash + 1])
        moved[both] = indices[both]
    return moved
