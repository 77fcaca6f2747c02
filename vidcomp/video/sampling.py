# SPDX-License-Identifier: Apache-2.0
"""Choice of frames, decided from presentation times and key frames alone.

Letters used in shapes: N presentable frames of the file, T chosen frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.core.stock_rules import StockRule
from vidcomp.video.keyframes import key_times

__all__ = ["RULES", "Sampling", "choose_frames", "choose_in_spans", "window"]

Times = NDArray[np.float64]
Indices = NDArray[np.int64]

RULES = ("uniform", "fps", "keyframes", "scene", "model")
DEFAULT_FPS = 1.0
# A wanted moment within half a millisecond before a frame's own time still means that frame: some containers round
# times to milliseconds. Never more than a quarter of a frame.
EARLY_SECONDS = 5e-4
CROWDED_PER_SECOND = 2.0  # more key frames than this tell nothing about content


@dataclass(frozen=True)
class Sampling:
    """Number of frames to take, or rate, and the rule. Exactly one of ``frames`` and ``fps`` is set.

    Attributes:
        frames: uniform over presentation time, the first and the last frame included. One frame means the first.
            A shorter video gives every frame once. For ``keyframes`` and ``scene`` the largest number.
        fps: one frame per ``1 / fps`` seconds from the first frame on; the last frame too when it lies at least half
            a step after the one before it. Never more than every frame once.
        max_frames: upper bound; where ``fps`` would exceed it, that many frames are taken uniformly instead.
        rule: ``uniform`` (what ``frames`` or ``fps`` say), ``keyframes`` (coded key frames, and evenly spaced ones
        where
            they leave gaps: KFFocus, arXiv 2508.08989), ``scene`` (at least one from every stretch between cuts), or
            ``model`` (``stock``, what the model family's own processor takes).
        start, end: seconds from the first frame on; frames outside are not taken.
        seek: ``exact``, or ``fast``: frames may move by a quarter of the sampling step so that less is decoded.
        stock: the rule of ``model``.

    Raises:
        ValueError: both or none of ``frames`` and ``fps``, or a number out of range.
    """

    frames: int | None = 32
    fps: float | None = None
    max_frames: int | None = None
    rule: str = "uniform"
    start: float = 0.0
    end: float | None = None
    seek: str = "exact"
    stock: StockRule | None = None

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
        if self.rule not in RULES or self.seek not in ("exact", "fast"):
            raise ValueError(f"no such rule or seek: {self.rule}, {self.seek}")
        if (self.rule == "model") != (self.stock is not None):
            raise ValueError("the rule 'model' needs the model's own rule, and no other takes one")
        if not (0 <= self.start < math.inf) or (self.end is not None and not self.start < self.end):
            raise ValueError(f"start and end must be 0 <= start < end, got {self.start} and {self.end}")

    @property
    def bound(self) -> int | None:
        """The largest number of frames, None for no limit."""
        given = [value for value in (self.frames, self.max_frames) if value is not None]
        return min(given) if given else None


def _require_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def choose_frames(
    times: Times, sampling: Sampling, keys: Indices | None = None, seconds: float | None = None
) -> Indices:
    """Choose frames by their presentation times.

    Args:
        times: float64 ``[N]`` seconds, not decreasing, N >= 1.
        keys: indices of the key frames, for the rule ``keyframes``; none are known when None.
        seconds: to the end of the last frame; the time of the last frame when None.

    Returns:
        int64 ``[T]``, strictly increasing indices into ``times``; empty when no frame lies between start and end.
    """
    length = float(times[-1]) if seconds is None else seconds
    first, stop = window(times, sampling, length)
    part = times[first:stop]
    if not len(part):
        return np.empty(0, dtype=np.int64)
    if sampling.stock is not None:
        chosen = sampling.stock.choose(len(part), float((times[stop] if stop < len(times) else length) - part[0]))
    elif sampling.rule == "keyframes":
        inside = np.empty(0, dtype=np.int64) if keys is None else keys[(keys >= first) & (keys < stop)] - first
        chosen = _by_keys(part, inside, sampling.bound)
    elif sampling.fps is None:
        chosen = _uniform(part, sampling.bound or 1)
    else:
        chosen = _by_rate(part, sampling.fps)
        if sampling.max_frames is not None and len(chosen) > sampling.max_frames:
            chosen = _uniform(part, sampling.max_frames)
    return chosen + first


def window(times: Times, sampling: Sampling, seconds: float) -> tuple[int, int]:
    """First frame and the one after the last between start and end: the frame on the screen at ``start`` counts."""
    if sampling.start > max(seconds, float(times[-1])):
        return len(times), len(times)
    shown = int(np.searchsorted(times, sampling.start + _early(times), side="right")) - 1
    first = max(0, shown) if sampling.start else 0
    if sampling.end is None:
        return first, len(times)
    return first, max(first + 1, int(np.searchsorted(times, sampling.end + _early(times), side="right")))


def choose_in_spans(bounds: Indices, frames: int | None) -> Indices:
    """Frames from every span, more from longer ones, evenly within each.

    Args:
        bounds: int64 ``[S + 1]``, first frame of each of S spans, then the frame after the last.
        frames: how many in all; None takes one per span. With more spans than frames the longest spans get one each.
    """
    lengths = np.diff(bounds)
    counts = np.zeros(len(lengths), dtype=np.int64)
    budget = min(len(lengths) if frames is None else frames, int(lengths.sum()))
    counts[np.argsort(-lengths, kind="stable")[:budget]] = 1
    for _ in range(budget - int(counts.sum())):  # the span whose frames are farthest apart gets the next one
        counts[np.argmax(np.where(counts < lengths, lengths / np.maximum(counts, 0.5), -1.0))] += 1
    spans = zip(bounds[:-1], lengths, counts, strict=True)
    parts = [start + ((2 * np.arange(count) + 1) * size) // (2 * count) for start, size, count in spans if count]
    return np.concatenate(parts).astype(np.int64)


def _uniform(times: Times, count: int) -> Indices:
    if count >= len(times):
        return np.arange(len(times), dtype=np.int64)
    wanted = np.linspace(times[0], times[-1], count)  # [T]
    chosen = _shown_at(times, wanted)
    if count > 1:
        chosen[-1] = len(times) - 1
    return _spread(chosen, len(times))


def _by_rate(times: Times, fps: float) -> Indices:
    span = float(times[-1] - times[0])
    steps = math.floor((span + _early(times)) * fps)
    if steps >= 4 * len(times):  # far above the file's own rate: every frame, and no huge array of moments
        return np.arange(len(times), dtype=np.int64)
    chosen = np.unique(_shown_at(times, times[0] + np.arange(steps + 1) / fps))
    last = len(times) - 1
    if chosen[-1] != last and times[last] - times[chosen[-1]] >= 0.5 / fps:
        chosen = np.append(chosen, last)
    return chosen


def _by_keys(times: Times, keys: Indices, bound: int | None) -> Indices:
    """KFFocus: key frames and evenly spaced ones in the gaps; uniform where there are too many to tell anything."""
    length = float(times[-1] - times[0])
    if length <= 0 or len(keys) > max(2, CROWDED_PER_SECOND * length):
        return _uniform(times, bound or len(times))
    found = key_times((times[keys] - times[0]).tolist(), length, bound)
    moments = times[0] + np.array([0.0, *sorted((*found.keys, *found.added))])  # the first key time is 0
    return np.unique(_shown_at(times, moments))


def _shown_at(times: Times, moments: Times) -> Indices:
    """The frame on the screen at each moment: the last one whose time has come. The first moment is ``times[0]``."""
    found = np.searchsorted(times, moments + _early(times), side="right").astype(np.int64) - 1
    found[0] = 0  # the first frame, even when others follow within the tolerance
    return found


def _early(times: Times) -> float:
    return min(EARLY_SECONDS, float(np.median(np.diff(times))) / 4) if len(times) > 1 else EARLY_SECONDS


def _spread(chosen: Indices, total: int) -> Indices:
    """Make indices distinct: a frame shown for several steps is taken once, its copies become its neighbours.

    Keeps the number of frames. The first and the last index stay, because the last is ``total - 1`` or nothing repeats.
    """
    rank = np.arange(len(chosen), dtype=np.int64)
    upward = np.maximum.accumulate(chosen - rank) + rank  # each at least one above the one before
    return np.minimum(upward, total - len(chosen) + rank)  # room for those that follow
