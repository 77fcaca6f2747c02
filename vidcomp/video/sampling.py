"""Which frames to take, decided from the presentation times alone.

Letters used in shapes: N presentable frames of the file, T chosen frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sampling", "choose_frames"]

# A wanted moment within half a millisecond before a frame's own time still means that frame: decord keeps times in
# single precision, whose step is 0.24 ms at one hour. A frame lasts at least 4 ms at 240 frames per second.
EARLY_SECONDS = 5e-4


@dataclass(frozen=True)
class Sampling:
    """How many frames to take, or how many per second. Exactly one of ``frames`` and ``fps`` is set.

    Attributes:
        frames: uniform over presentation time, the first and the last frame included. One frame means the first.
            A shorter video gives every frame once.
        fps: one frame per ``1 / fps`` seconds from the first frame on; the last frame too when it lies at least half
            a step after the one before it. Never more than every frame once.
        max_frames: upper bound; where ``fps`` would exceed it, that many frames are taken uniformly instead.

    Raises:
        ValueError: both or none of ``frames`` and ``fps``, or a number out of range.
    """

    frames: int | None = 32
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.fps is None):
            raise ValueError(
                f"exactly one of frames and fps must be set, got frames={self.frames} and fps={self.fps}; "
                "write Sampling(frames=None, fps=...) to sample by rate"
            )
        _require_count("frames", self.frames)
        _require_count("max_frames", self.max_frames)
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps}")


def _require_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def choose_frames(times: NDArray[np.float64], sampling: Sampling) -> NDArray[np.int64]:
    """Choose frames by their presentation times.

    Args:
        times: float64 ``[N]`` seconds, not decreasing, N >= 1.

    Returns:
        int64 ``[T]``, strictly increasing indices into ``times``.
    """
    if sampling.fps is None:
        count = sampling.frames or 1
        return _uniform(times, min(count, sampling.max_frames or count))
    chosen = _by_rate(times, sampling.fps)
    if sampling.max_frames is not None and len(chosen) > sampling.max_frames:
        return _uniform(times, sampling.max_frames)
    return chosen


def _uniform(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    if count >= len(times):
        return np.arange(len(times), dtype=np.int64)
    wanted = np.linspace(times[0], times[-1], count)  # [T]
    chosen = _shown_at(times, wanted)
    if count > 1:
        chosen[-1] = len(times) - 1
    return _spread(chosen, len(times))


def _by_rate(times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    span = float(times[-1] - times[0])
    steps = math.floor((span + EARLY_SECONDS) * fps)
    if steps >= 4 * len(times):  # far above the file's own rate: every frame, and no huge array of moments
        return np.arange(len(times), dtype=np.int64)
    chosen = np.unique(_shown_at(times, times[0] + np.arange(steps + 1) / fps))
    last = len(times) - 1
    if chosen[-1] != last and times[last] - times[chosen[-1]] >= 0.5 / fps:
        chosen = np.append(chosen, last)
    return chosen


def _shown_at(times: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.int64]:
    """The frame on the screen at each moment: the last one whose time has come. The first moment is ``times[0]``."""
    found = np.searchsorted(times, moments + EARLY_SECONDS, side="right").astype(np.int64) - 1
    found[0] = 0  # the first frame, even when others follow within the tolerance
    return found


def _spread(chosen: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Make indices distinct: a frame shown for several steps is taken once, its copies become its neighbours.

    Keeps the number of frames. The first and the last index stay, because the last is ``total - 1`` or nothing repeats.
    """
    rank = np.arange(len(chosen), dtype=np.int64)
    upward = np.maximum.accumulate(chosen - rank) + rank  # each at least one above the one before
    return np.minimum(upward, total - len(chosen) + rank)  # room for those that follow
