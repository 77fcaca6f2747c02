# SPDX-License-Identifier: Apache-2.0
"""Windows of a film: where each begins and ends, decided from cuts, a step and the times of its frames.

All times are exact seconds from the first frame on. Every window holds at least one frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.config import parse_seconds
from vidcomp.errors import InputError, UsageError
from vidcomp.video.read import list_file, read_frames
from vidcomp.video.sampling import Sampling
from vidcomp.video.scene_list import list_cuts

__all__ = ["Clock", "Every", "Window", "plan_windows", "read_clock", "windows_of"]

AUTO_LEAST, AUTO_MOST = Fraction(2), Fraction(30)  # seconds of a window, where --every auto and nothing else is said


@dataclass(frozen=True)
class Every:
    """The rule by which a film is divided.

    Attributes:
        rule: ``scene`` (at its cuts), ``auto`` (likewise, in windows of 2 to 30 seconds), ``step`` or ``whole``.
        step: seconds of a window, of the rule ``step``.
        least: shorter windows are joined with the next one; the last one with the one before.
        most: longer ones are divided into equal parts.
    """

    rule: str = "whole"
    step: Fraction = Fraction(0)
    least: Fraction = Fraction(0)
    most: Fraction | None = None

    @classmethod
    def parse(cls, text: str | None, least: str | None = None, most: str | None = None) -> Every:
        """Read ``--every scene|auto|30s --min 2s --max 30s``; None is the whole film.

        Raises:
            UsageError: one of them is no such thing, or they exclude each other.
        """
        if text is None:
            if least is not None or most is not None:
                raise UsageError("--min and --max without --every", why="they bound the windows of --every",
                                 hint="--every scene", code="bad_option")  # fmt: skip
            return cls()
        named = text.strip().lower()
        bounds = (
            _seconds("--min", least) if least is not None else AUTO_LEAST if named == "auto" else Fraction(0),
            _seconds("--max", most) if most is not None else AUTO_MOST if named == "auto" else None,
        )
        if most is not None and least is None and named == "auto":
            bounds = (min(bounds[0], _seconds("--max", most)), bounds[1])
        every = cls(named, Fraction(0), *bounds) if named in ("scene", "auto") else cls("step", _step(text), *bounds)
        if every.most is not None and not 0 < every.most >= every.least:
            raise UsageError(f"--max {most}", why=f"it must be at least --min, {float(every.least):g} s",
                             code="bad_option")  # fmt: skip
        return every

    @property
    def at_cuts(self) -> bool:
        """True if the cuts of the film have to be known."""
        return self.rule in ("scene", "auto")

    def to_dict(self) -> dict[str, str | None]:
        """As in records."""
        every = str(self.step) if self.rule == "step" else self.rule
        return {"every": every, "min": str(self.least), "max": None if self.most is None else str(self.most)}


def _step(text: str) -> Fraction:
    try:
        step = _seconds("--every", text)
    except UsageError as error:
        raise UsageError(f"--every {text}", why="it must be scene, auto, or seconds such as 30s",
                         code="bad_option") from error  # fmt: skip
    if step <= 0:
        raise UsageError(f"--every {text}", why="a window must last", code="bad_option")
    return step


def _seconds(flag: str, text: str) -> Fraction:
    """Exact seconds from ``2``, ``2s``, ``1:30`` or ``00:01:30.5``."""
    plain = text.strip().lower().removesuffix("s").rstrip()
    seconds = parse_seconds(flag, plain)
    return Fraction(plain) if plain.replace(".", "", 1).isdecimal() else Fraction(repr(seconds))


@dataclass(frozen=True)
class Clock:
    """Times of all frames of a film.

    Attributes:
        ticks: int64 ``[N]``, not falling, 0 for the first frame.
        base: seconds per tick.
        end: of the last frame, in seconds.
        sound: there is a sound track.
    """

    ticks: NDArray[np.int64]
    base: Fraction
    end: Fraction
    sound: bool = False

    def first_from(self, time: Fraction) -> int:
        """The first frame that appears at this time or later."""
        return int(np.searchsorted(self.ticks, math.ceil(time / self.base), side="left"))

    def time(self, frame: int) -> Fraction:
        """The moment at which a frame appears."""
        return int(self.ticks[frame]) * self.base


@dataclass(frozen=True)
class Window:
    """One stretch of a film.

    Attributes:
        start, end: exact seconds from the first frame of the film; ``end`` is the start of the next window.
        first, last: when its first and its last frame appear. Reading takes frames from here: an ``end`` is the time
            of a frame that belongs to the next window.
    """

    start: Fraction
    end: Fraction
    first: Fraction
    last: Fraction

    def settings(self) -> dict[str, str]:
        """``--start`` and ``--end`` that read the frames of this window and no other."""
        first, last = float(self.first), float(self.last)
        return {"start": repr(first), "end": repr(max(last, math.nextafter(first, math.inf)))}

    def to_dict(self) -> dict[str, Any]:
        """As in records."""
        return {
            "start": round(float(self.start), 6), "end": round(float(self.end), 6),
            "exact_start": str(self.start), "exact_end": str(self.end),
        }  # fmt: skip


def read_clock(path: Path, deadline: float | None = None) -> Clock:
    """Times of the frames of a file, from its packets; where these tell nothing, frames follow each other evenly.

    Raises:
        InputError: as :func:`~vidcomp.video.read_frames`.
    """
    _, listed, numbers = list_file(path, *([] if deadline is None else [deadline]))
    scan = listed.scan
    if scan is not None and scan.frames:
        ticks = numbers[: scan.frames] - numbers[0]
        end = max(Fraction(scan.seconds).limit_denominator(1_000_000), int(ticks[-1]) * scan.base)
        return Clock(ticks, scan.base, end, listed.facts.sound)
    info = read_frames(path, Sampling(1), deadline_seconds=deadline).info
    end = Fraction(info.duration_seconds).limit_denominator(1_000_000)
    base = end / info.frames_total if end > 0 else Fraction(1)
    return Clock(np.arange(info.frames_total, dtype=np.int64), base, end, listed.facts.sound)


def plan_windows(
    path: Path,
    every: Every,
    within: tuple[float, float | None],
    deadline: float | None = None,
    readers: Sequence[str] | None = None,
    tell: Callable[[float, float], None] = lambda *_: None,
) -> tuple[Clock, list[Window], str | None]:
    """Divide a file.

    Args:
        path: the file.
        every: how.
        within: ``--start`` and ``--end``.
        deadline, readers: as for :func:`~vidcomp.video.read_frames`.
        tell: called with the seconds that were searched for cuts, and those of the film.

    Returns:
        The times of its frames, its windows in order, and what is missing or damaged, as far as looking for cuts has
        shown it.

    Raises:
        InputError: the file cannot be read, or nothing is shown within.
    """
    clock, cuts, damage = read_clock(path, deadline), list[Fraction](), None
    if every.at_cuts:
        cuts, damage = list_cuts(path, tell, deadline_seconds=deadline, readers=readers)
    windows = windows_of(clock, every, cuts, *map(_fraction, within))
    if not windows:
        raise InputError(f"nothing is shown from {within[0]:g} s on", why=f"it lasts {float(clock.end):.1f} s",
                         hint="look at its length: vidcomp probe FILE", code="empty_range")  # fmt: skip
    return clock, windows, damage


def _fraction(seconds: float | None) -> Fraction | None:
    return None if seconds is None else Fraction(repr(seconds))


def windows_of(
    clock: Clock,
    every: Every,
    cuts: Iterable[Fraction] = (),
    start: Fraction | None = None,
    end: Fraction | None = None,
) -> list[Window]:
    """Windows between ``start`` and ``end``, each with a frame of its own; none when nothing is shown there.

    Args:
        clock: times of the frames.
        every: how the film is divided.
        cuts: times of the first frame after each cut.
        start, end: of the part that is wanted.
    """
    start, end = start or Fraction(0), clock.end if end is None else min(end, clock.end)
    frames = range(clock.first_from(start), clock.first_from(end))
    if not frames and start < end:  # one frame is on the screen all the time
        frames = range(max(0, frames.start - 1), frames.start or 1)
    if not frames:
        return []
    if every.rule == "step":  # from the frames: however short the step, there are no more windows than frames
        bounds = sorted({start + (clock.time(frame) - start) // every.step * every.step for frame in frames})
    else:
        bounds = sorted(cuts)
    bounds = [start, *(bound for bound in bounds if start < bound < end)]
    bounds = _divided([*_joined(bounds, end, every.least), end], every.most)
    return _with_frames(clock, bounds, frames)


def _joined(bounds: list[Fraction], end: Fraction, least: Fraction) -> list[Fraction]:
    """Starts of windows, of which none is shorter than ``least`` unless the whole film is."""
    kept = [bounds[0]]
    for bound in bounds[1:]:
        if bound - kept[-1] >= least:
            kept.append(bound)
    if len(kept) > 1 and end - kept[-1] < least:
        kept.pop()
    return kept


def _divided(bounds: list[Fraction], most: Fraction | None) -> list[Fraction]:
    if most is None:
        return bounds
    parts = [bounds[0]]
    for before, after in pairwise(bounds):
        count = math.ceil((after - before) / most)
        parts += [before + (after - before) * number / count for number in range(1, count)] + [after]
    return parts


def _with_frames(clock: Clock, bounds: list[Fraction], frames: range) -> list[Window]:
    """Windows with their first and last frames; one that has none goes to the window before."""
    starts = [(frames.start, bounds[0])]
    for bound in bounds[1:-1]:
        first = clock.first_from(bound)
        if first >= frames.stop:
            break
        if first == starts[-1][0] and len(starts) > 1:
            starts.pop()
        if first > starts[-1][0]:
            starts.append((first, bound))
    found = []
    for (first, start), (after, end) in zip(starts, [*starts[1:], (frames.stop, bounds[-1])], strict=True):
        found.append(Window(start, end, clock.time(first), clock.time(after - 1)))
    return found
