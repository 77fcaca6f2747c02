"""The interface behind which decoders stand, and the table of those that exist."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import Header

__all__ = ["READERS", "ReaderError", "VideoReader", "create_reader", "shrink"]

# Name -> "module:class", in the order in which they are tried. Nothing is imported before it is used.
READERS: dict[str, str] = {
    "decord": "vidcomp.video.decord_reader:DecordReader",
    "opencv": "vidcomp.video.opencv_reader:OpenCvReader",
}


class ReaderError(Exception):
    """One reader cannot give true frames of this file; the next one is tried.

    Args:
        why: one line, the cause.
        code: ``failed`` (an error), ``doubt`` (frames would come, but not reliably the right ones),
            ``no_video_stream``, ``no_frames``, ``hang``, ``crash`` or ``too_large``.
    """

    def __init__(self, why: str, code: str = "failed") -> None:
        super().__init__(why)
        self.why, self.code = why, code


class VideoReader(ABC):
    """One decoder on one file. Used inside the decoding child process, as a context manager.

    The order of calls is ``open``, ``frame_times``, ``read`` once with increasing indices, ``close``.
    Every method may raise ReaderError; any other exception counts as a failure of the reader too.
    """

    name: ClassVar[str]
    threads: ClassVar[int] = 2  # more decode ahead and hold more frames in memory

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self, path: str, header: Header) -> None:
        """Open a file. ``path`` is safe to pass to native code; ``header`` is what the file says about itself."""

    @property
    @abstractmethod
    def claimed_seconds(self) -> float | None:
        """Length that the container claims, known right after ``open``; None when it does not tell."""

    @abstractmethod
    def frame_times(self) -> NDArray[np.float64]:
        """Presentation seconds of every presentable frame, float64 ``[N]``: from 0.0, never decreasing, N >= 1."""

    @abstractmethod
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        """Yield each frame as uint8 ``[h, w, 3]`` RGB, upright, shrunk so that no side exceeds ``max_side``.

        Args:
            indices: strictly increasing positions in ``frame_times()``.
        """

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame at full size, known once a frame was read."""

    @abstractmethod
    def close(self) -> None:
        """Release the file and the decoder. May be called twice."""


def create_reader(name: str) -> VideoReader:
    """A reader by its name in READERS, or by ``"module:class"`` for readers of other packages.

    Raises:
        ReaderError: its library is not installed.
    """
    module, _, kind = READERS.get(name, name).partition(":")
    try:
        reader = getattr(importlib.import_module(module), kind)()
    except ImportError as error:
        raise ReaderError(f"not available ({error})") from error
    if not isinstance(reader, VideoReader):
        raise ReaderError(f"{name} is not a VideoReader")
    return reader


def shrink(image: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """Scale ``[h, w, 3]`` down by area averaging so that no side exceeds ``max_side``; smaller ones stay."""
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    import cv2

    scale = max_side / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)
