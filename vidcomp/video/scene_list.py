# SPDX-License-Identifier: Apache-2.0
"""The scenes of a video: stretches between cuts, found on thumbnails of all frames, a minute of film at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import InputError
from vidcomp.video.read import read_frames
from vidcomp.video.sampling import Sampling
from vidcomp.video.scenes import THUMB_SIDE, cuts_among, find_cuts, thumbnail
from vidcomp.video.types import Frames, VideoInfo

__all__ = ["Scene", "SceneList", "list_cuts", "list_scenes", "scenes_of"]

STRETCH = 60.0  # seconds of film whose thumbnails are in memory at once
ALL_FRAMES = 1e4  # per second: more than any film has
SAME_LEVEL = 0.03 * 255  # grey levels of a block: as much change as ``--segmenter luma`` takes for none


@dataclass(frozen=True)
class Scene:
    """One stretch between cuts.

    Attributes:
        start, end: exact seconds from the first frame of the film; ``end`` is the start of the next scene.
        first, last: its frames, both ends included.
        key: the frame that looks most like the mean of the scene.
        key_time: when it appears.
        redundancy: share of its frames that look like the last one that did not.
    """

    start: Fraction
    end: Fraction
    first: int
    last: int
    key: int
    key_time: Fraction
    redundancy: float

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "start": round(float(self.start), 6), "end": round(float(self.end), 6),
            "exact_start": str(self.start), "exact_end": str(self.end), "frames": [self.first, self.last],
            "key_frame": self.key, "key_time": round(float(self.key_time), 6),
            "redundancy": round(self.redundancy, 4),
        }  # fmt: skip


@dataclass(frozen=True)
class SceneList:
    """The scenes of a file.

    Attributes:
        scenes: in order.
        info: facts of the file.
        degraded: what is missing or damaged in any part of it; None when nothing is.
        notes: what a user would not expect of the pictures, over all parts.
    """

    scenes: list[Scene]
    info: VideoInfo
    degraded: str | None
    notes: tuple[str, ...]

    @property
    def status(self) -> str:
        """``ok`` or ``degraded``."""
        return "degraded" if self.degraded else "ok"


def list_scenes(path: Path, **reading: Any) -> SceneList:
    """Find the scenes of a file.

    Args:
        path: the file. It is opened once per minute of film.
        reading: as for :func:`~vidcomp.video.read_frames`.

    Raises:
        InputError: the file cannot be read.
    """
    small: list[NDArray[np.float32]] = []
    times: list[Fraction] = []
    damage: dict[str, None] = {}  # in order, each once
    notes: dict[str, None] = {}
    info: VideoInfo | None = None
    for frames, new in _stretches(path, reading):
        small += [thumbnail(image) for image in frames.pixels[new:]]
        times += frames.exact_times[new:]
        info = frames.wait().info
        notes |= dict.fromkeys(info.notes)
        damage |= dict.fromkeys([frames.degraded] if frames.degraded else [])
    assert info is not None
    end = max(Fraction(info.duration_seconds).limit_denominator(1_000_000), times[-1])
    return SceneList(scenes_of(np.stack(small), times, end), info, "; ".join(damage) or None, tuple(notes))


def list_cuts(
    path: Path, tell: Callable[[float, float], None] = lambda *_: None, **reading: Any
) -> tuple[list[Fraction], str | None]:
    """Find the cuts alone: those that :func:`list_scenes` finds, in memory that does not grow with the pictures.

    Args:
        path: the file.
        tell: called with the seconds that were looked at, and those of the film.
        reading: as for :func:`~vidcomp.video.read_frames`.

    Returns:
        Times of the first frame after each cut, and what is missing or damaged in any part of the film.

    Raises:
        InputError: the file cannot be read.
    """
    last: NDArray[np.float32] | None = None
    changes: list[NDArray[np.float32]] = []
    times: list[Fraction] = []
    damage: dict[str, None] = {}
    for frames, new in _stretches(path, reading):
        small = [thumbnail(image) for image in frames.pixels[new:]]
        joined = np.stack(small if last is None else [last, *small])
        changes.append(np.abs(np.diff(joined, axis=0)).mean((1, 2)))
        times += frames.exact_times[new:]
        if found := frames.wait().degraded:
            damage[found] = None
        last = joined[-1]
        tell(float(times[-1]), frames.info.duration_seconds)
    return [times[frame] for frame in cuts_among(np.concatenate(changes))], "; ".join(damage) or None


def _stretches(path: Path, reading: dict[str, Any]) -> Iterator[tuple[Frames, int]]:
    """Stretches of film, and how many of the frames of each came in the one before."""
    known, start = -1, 0.0
    while True:
        sampling = Sampling(frames=None, fps=ALL_FRAMES, start=start, end=start + STRETCH)
        try:
            frames = read_frames(path, sampling, max_side=THUMB_SIDE, **reading)
        except InputError as error:
            if error.code == "empty_range" and known >= 0:
                return
            raise
        yield frames, int(np.searchsorted(frames.indices, known, side="right"))
        known, start = max(known, int(frames.indices[-1])), start + STRETCH
        if start >= frames.info.duration_seconds > 0:
            return


def scenes_of(small: NDArray[np.float32], times: Sequence[Fraction], end: Fraction) -> list[Scene]:
    """Scenes from thumbnails [N, 16, 16] of all frames, their times, and the end of the film."""
    bounds = find_cuts(small).tolist()
    starts = [*(times[first] for first in bounds[:-1]), end]
    found = []
    for number, (first, stop) in enumerate(itertools.pairwise(bounds)):
        part = small[first:stop]
        key = first + int(np.abs(part - part.mean(0)).mean((1, 2)).argmin())
        found.append(
            Scene(starts[number], starts[number + 1], first, stop - 1, key, times[key], _redundancy(part))
        )  # fmt: skip
    return found


def _redundancy(part: NDArray[np.float32]) -> float:
    shown, repeats = part[0], 0
    for picture in part[1:]:
        if np.abs(picture - shown).max() <= SAME_LEVEL:
            repeats += 1
        else:
            shown = picture
    return repeats / len(part)
