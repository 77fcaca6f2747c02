# SPDX-License-Identifier: Apache-2.0
"""OpenCV, the last reader: one pass through the file, checked against the packet scan, or two where there is none.

``grab`` goes through the whole file in order and never seeks, because seeking by frame number is inexact and slow. Its
``POS_MSEC`` after each grab is the frame's presentation time: it agreed with PyAV within 1e-12 s on every test clip
except AVI with B-frames, where it loses the time at the end and the constant frame rate is used instead. Where a wanted
frame's time is not that of the scan, or there is no sound scan, a pass of its own counts and times the frames first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import MAX_PIXELS, MAX_SIDE, Header
from vidcomp.video.container.scan import Timeline
from vidcomp.video.readers.base import ReaderError, Source, Uncounted, VideoReader, in_background
from vidcomp.video.readers.conform import Form, fitted, resized, squared, swapped

__all__ = ["OpenCvReader"]

MICROSECOND = Fraction(1, 1_000_000)  # OpenCV gives times as floating-point numbers only
SAME_SECONDS = 5e-4  # two frames are at least 4 ms apart
FALLBACK_RATE = 25.0  # frames per second where a file gives neither times nor a rate


class OpenCvReader(VideoReader):
    """Reads whatever the FFmpeg inside OpenCV decodes, applies rotation, recovers most damaged files."""

    name: ClassVar[str] = "opencv"

    def __init__(self) -> None:
        self._capture: Any = None
        self._path = ""
        self._header, self._form = Header(), Form()
        self._size = (0, 0)
        self._rate = 0.0
        self._claimed: float | None = None
        self._grabbed = 0  # frames so far
        self._expected: Timeline | None = None  # by the packets; None once frames were counted

    def open(self, source: Source) -> None:
        import cv2

        self._path, self._header = source.path, source.header
        if source.header.mirrored:
            raise ReaderError("it does not know how this file is rotated", "doubt")
        opening = in_background(self._start_and_grab)
        if source.facts.place:
            raise ReaderError("it takes the first picture track, and another one counts", "doubt")
        if source.sound and source.scan is not None:
            self._expected = source.scan.timeline
        self._form = source.facts.form
        self._capture = opening.result()
        self._rate = _positive(self._capture.get(cv2.CAP_PROP_FPS))
        count = _positive(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._claimed = self._header.seconds or (count / self._rate if count and self._rate else None)
        width, height = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH), self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise ReaderError(f"frames of {width:.0f} x {height:.0f} pixels", "too_large")

    @property
    def claimed_seconds(self) -> float | None:
        return self._claimed

    def timeline(self) -> Timeline:
        return self._expected or self.count()

    def count(self) -> Timeline:
        import cv2

        self.close()
        self._expected, self._capture, self._grabbed = None, self._start(), 0
        stamps: list[float] = []
        while self._capture.grab():
            stamps.append(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self.close()
        if not stamps:
            raise ReaderError("the file opens and holds no picture that can be decoded", "no_frames")
        times: NDArray[np.float64] = np.asarray(stamps, dtype=np.float64) / 1000
        if not np.isfinite(times).all() or (np.diff(times) < 0).any() or (len(times) > 1 and times[-1] == times[0]):
            times = np.arange(len(times), dtype=np.float64) / (self._rate or FALLBACK_RATE)
        return Timeline(np.rint(times / float(MICROSECOND)).astype(np.int64), MICROSECOND)

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        import cv2

        self._capture = self._capture or self._start_and_grab()
        expected = None if self._expected is None else self._expected.times
        if not self._grabbed:
            raise self._lost(0)
        first = self._seconds()
        for index in indices:
            while self._grabbed <= index:
                if not self._capture.grab():
                    raise self._lost(self._grabbed)
                self._grabbed += 1
            if expected is not None and not abs(self._seconds() - first - expected[index]) < SAME_SECONDS:
                raise self._lost(index)
            found, image = self._capture.retrieve()
            if not found or image.ndim != 3:
                raise ReaderError(f"no picture at frame {index}")
            pixel = swapped(self._form.pixel, self._header.rotation % 180 != 0)
            self._size = squared((image.shape[1], image.shape[0]), pixel)
            size = self._size if max_side is None else fitted(*self._size, max_side)
            yield np.asarray(cv2.cvtColor(resized(image, size), cv2.COLOR_BGR2RGB), dtype=np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def notes(self) -> tuple[str, ...]:
        left = replace(self._form, pixel=(1, 1)).unusual
        stretched = (f"pixels are not square: pictures are stretched to {self._size[0]} x {self._size[1]}",)
        shown = (f"shown as stored, because no better reader could: {left}",)
        square = self._form.pixel[0] == self._form.pixel[1] or not self._form.plausible
        return (() if square else stretched) + (shown if left else ())

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _seconds(self) -> float:
        import cv2

        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def _lost(self, index: int) -> Exception:
        """Frame ``index`` is not where it should be."""
        if self._expected is not None:
            return Uncounted(f"frame {index} is not where the packets say")
        return ReaderError(f"frame {index} was there on the first pass and not on the second")

    def _start_and_grab(self) -> Any:
        """A capture that stands on the first frame, if there is one."""
        capture = self._start()
        self._grabbed = int(capture.grab())
        return capture

    def _start(self) -> Any:
        import cv2

        settings = [cv2.CAP_PROP_N_THREADS, self.threads]
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, settings)
        if not capture.isOpened():
            raise ReaderError("cannot open the file")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture


def _positive(value: float) -> float:
    return value if np.isfinite(value) and value > 0 else 0.0
