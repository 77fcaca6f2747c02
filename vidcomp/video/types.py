# SPDX-License-Identifier: Apache-2.0
"""Result of reading a video: frames with their times, and facts about the file.

Letters used in shapes: T frames returned, N presentable frames of the file, h and w height and width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.names import recorded_name

__all__ = ["Frames", "Inspection", "Partial", "VideoInfo"]


@dataclass(frozen=True)
class VideoInfo:
    """Facts about one video, all of them about the part that can be decoded.

    Attributes:
        path: the file as the caller named it; records hold it so that :func:`vidcomp.path_from_record` finds it.
        frames_total: presentable frames: those a player would show. Packets that an edit list hides do not count.
        duration_seconds: from the start of the first presentable frame to the end of the last.
        width: pixels of an upright frame at full size, after rotation metadata and with square pixels.
        height: likewise.
        fps: mean rate, ``frames_total / duration_seconds``; 0.0 when the duration is not known.
        reader: the reader that delivered the frames: ``"decord"``, ``"pyav"`` or ``"opencv"``.
        start_seconds: time of the first presentable frame in the file's own clock, which need not start at zero.
        container: such as ``mp4``; empty when not known.
        codec: such as ``h264``; empty when not known.
        notes: what a viewer would not expect of the pictures or their times, a line each; empty when nothing.
    """

    path: Path
    frames_total: int
    duration_seconds: float
    width: int
    height: int
    fps: float
    reader: str
    start_seconds: Fraction = Fraction(0)
    container: str = ""
    codec: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ``video`` object of a JSON record."""
        return {
            "path": recorded_name(self.path),
            "duration_seconds": round(self.duration_seconds, 6),
            "start_seconds": round(float(self.start_seconds), 6),
            "frames_total": self.frames_total,
            "width": self.width,
            "height": self.height,
            "container": self.container or None,
            "codec": self.codec or None,
            "reader": self.reader,
        }


class Inspection(Protocol):
    """The inspection of a file for damage that decoders do not report."""

    def verdict(self, wait: bool) -> str | None:
        """Return what was found, in words; empty when nothing was, None while it goes on and ``wait`` is False."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Sampled frames of one video, in presentation order, none of them twice.

    Attributes:
        pixels: uint8 ``[T, h, w, 3]`` RGB, upright. Shared memory that lives as long as the array; writable.
        indices: int64 ``[T]``, strictly increasing, position among the presentable frames.
        times: float64 ``[T]``, seconds at which each frame appears. 0.0 is the first presentable frame,
            whatever start offset the file declares (``info.start_seconds``).
        info: facts about the file.
        missing: what was missing or damaged when the frames were delivered; None when nothing was.
        exact_times: the same times as exact fractions of a second.
        inspection: of the file, which may go on in the decoding process; None when there is none.
    """

    pixels: NDArray[np.uint8]
    indices: NDArray[np.int64]
    times: NDArray[np.float64]
    info: VideoInfo
    missing: str | None = None
    exact_times: tuple[Fraction, ...] = field(default=(), repr=False)
    inspection: Inspection | None = field(default=None, repr=False)

    def wait(self) -> Frames:
        """Wait for the end of the inspection; these frames, whose ``status`` and ``degraded`` are final now."""
        if self.inspection:
            self.inspection.verdict(wait=True)
        return self

    @property
    def pending(self) -> bool:
        """The inspection goes on: it may still find damage."""
        return not self.missing and self.inspection is not None and self.inspection.verdict(wait=False) is None

    @property
    def degraded(self) -> str | None:
        """The part that is missing or damaged, such as ``"decoded 4.7 s of 8.0 s"``; None if none is known.

        Never waits: see :meth:`wait` and docs/reading.md, "Damage".
        """
        return self.missing or (self.inspection.verdict(wait=False) if self.inspection else None) or None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def status(self) -> str:
        """``ok``, or ``degraded`` when part of the video could not be decoded, as far as is known. Never waits."""
        return "degraded" if self.degraded else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The ``frames`` object of a JSON record: times in seconds, and as exact fractions of one."""
        return {
            "sampled": len(self),
            "indices": self.indices.tolist(),
            "times": [round(time, 6) for time in self.times.tolist()],
            "exact_times": [str(time) for time in self.exact_times],
        }

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process is final: this waits."""
        return {**self.__dict__, "missing": self.wait().degraded, "inspection": None}

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.pixels.shape))
        span = f"{self.times[0]:.3f}..{self.times[-1]:.3f} s"
        found = "<inspection goes on>" if self.pending else repr(self.degraded)
        return f"Frames(pixels={shape} uint8, times={span}, info={self.info}, degraded={found})"


@dataclass(frozen=True, eq=False)
class Partial:
    """Frames that are on their way.

    Attributes:
        pixels: uint8 ``[T, h, w, 3]``, all that were asked for; the first ``ready`` are there.
        ready: how many.
        times: float64 ``[T]`` seconds, of all of them.
        seconds: length of the video.
    """

    pixels: NDArray[np.uint8]
    ready: int
    times: NDArray[np.float64]
    seconds: float
