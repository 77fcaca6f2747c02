# SPDX-License-Identifier: Apache-2.0
"""The interface behind which decoders stand, and the table of those that exist."""

from __future__ import annotations

import importlib
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import UsageError
from vidcomp.video.container.header import Header
from vidcomp.video.container.scan import Scan, Timeline
from vidcomp.video.readers.conform import Form, fitted

__all__ = [
    "LIBRARIES",
    "READERS",
    "Facts",
    "Packets",
    "ReaderError",
    "Source",
    "Uncounted",
    "VideoReader",
    "create_reader",
    "fitted",
    "in_background",
    "require_readers",
    "shrink",
]

T = TypeVar("T")

# Name -> "module:class", in the order in which they are tried. Nothing is imported before it is used.
READERS: dict[str, str] = {
    "pyav": "vidcomp.video.readers.pyav:PyAvReader",
    "decord": "vidcomp.video.readers.decord:DecordReader",
    "opencv": "vidcomp.video.readers.opencv:OpenCvReader",
}
LIBRARIES = {"pyav": "av", "decord": "decord", "opencv": "cv2"}  # what each of them imports
SILENT = frozenset({"hevc", "vp8"})  # codecs of which FFmpeg decodes damaged data without complaint
SILENT_PIXELS = 100_000_000  # of a video: half a second of one thread
INDEXED = frozenset({"iso", "matroska"})  # containers whose own index finds the packet asked for


class ReaderError(Exception):
    """One reader cannot give true frames of this file; the next one is tried.

    Args:
        why: one line, the cause.
        code: ``failed`` (an error); ``doubt`` (frames would come, but not reliably the right ones); ``damaged`` (so is
            the file, its decoder says: whatever another reader gives is degraded); ``refused`` (in doubt, and nothing
            was started: the next reader may go on in this process); ``cover`` and ``empty_range`` (final: no other
            reader is tried); ``no_video_stream``, ``no_frames``, ``hang``, ``crash`` or ``too_large``.
    """

    def __init__(self, why: str, code: str = "failed") -> None:
        super().__init__(why)
        self.why, self.code = why, code


class Uncounted(Exception):
    """A frame that the packets promise does not decode: frames have to be counted by decoding (``count``)."""


@dataclass(frozen=True)
class Facts:
    """Facts of the container about the picture track.

    Attributes:
        container: short name, such as ``mp4`` or ``matroska``.
        codec: such as ``h264``.
        width, height: of the stored picture, before any rotation.
        pixel_format: such as ``yuv420p``.
        sound: there is a sound track.
        seconds: length that the container claims for its longest track, None when it does not tell.
        track: the number of the track in the file, 0 when it has none.
        tracks: picture tracks that are not covers.
        place: of the track among all picture tracks, covers included; 0 is the first.
        form: how its pictures are to be shown.
    """

    container: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    sound: bool = False
    seconds: float | None = None
    track: int = 0
    tracks: int = 1
    place: int = 0
    form: Form = field(default_factory=Form)


@dataclass(frozen=True)
class Packets:
    """Facts from listing a file's packets.

    Attributes:
        scan: when frames are shown and where decoding may start; None when the packets do not tell.
        facts: what the container says.
        opened: the PyAV container and stream that were used, for one reader to go on with.
    """

    scan: Scan | None = None
    facts: Facts = Facts()
    opened: tuple[Any, Any] | None = None

    def close(self) -> None:
        """Close the container. May be called twice."""
        if self.opened is not None:
            self.opened[0].close()


class Source:
    """A file as a reader gets it.

    Args:
        path: safe to pass to native code.
        header: what the file's own headers say.
        packets: lists the packets when they are first asked for. A reader may open its own handle meanwhile
            (``in_background``).
    """

    def __init__(self, path: str, header: Header, packets: Callable[[], Packets] = Packets) -> None:
        self.path, self.header, self._list = path, header, packets

    @cached_property
    def packets(self) -> Packets:
        """List the packets. Raises ReaderError when no reader should try this file."""
        return self._list()

    @property
    def scan(self) -> Scan | None:
        """Facts of the packets; None when they cannot be listed."""
        return self.packets.scan

    @property
    def facts(self) -> Facts:
        """Facts of the container."""
        return self.packets.facts

    @property
    def sound(self) -> bool:
        """True when nothing points at damage or missing parts, so that the packets can be believed."""
        return self.scan is not None and self.scan.exact and not self.header.cut_short

    @property
    def doubtful(self) -> bool:
        """True when damage is known before anything is decoded."""
        return self.header.cut_short or (self.scan is not None and bool(self.scan.complaint))

    @property
    def silent(self) -> bool:
        """True where threads make other pictures of damaged data in every run and the decoder does not say a word.

        Damage is found only when the frames are used already. Longer videos are not looked at so closely.
        """
        facts, frames = self.facts, len(self.scan) if self.scan else 0
        return facts.codec in SILENT and frames * facts.width * facts.height <= SILENT_PIXELS

    def unopened(self) -> Source:
        """The same, to be opened anew: the open container serves one reader only."""
        return Source(self.path, self.header, lambda: replace(self.packets, opened=None))

    @property
    def jumps(self) -> bool:
        """True when decoding may begin at any key frame."""
        # Of several descriptions of the codec the right one is only known when coming from the start.
        return self.header.kind in INDEXED and self.sound and self.header.descriptions == 1


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class VideoReader(ABC):
    """One decoder on one file. Used inside the decoding child process, as a context manager.

    The order of calls is ``open``, ``timeline``, ``read`` with increasing indices, ``close``. When ``read`` raises
    Uncounted, ``count`` follows and ``read`` once more. Every method may raise ReaderError; any other exception counts
    as a failure of the reader too.
    """

    name: ClassVar[str]
    threads: int = max(2, min(8, _usable_cores()))  # every one holds frames in memory; 1 where data is damaged
    complaint = ""  # what is wrong with the frames that were read, in words

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self, source: Source) -> None:
        """Open a file."""

    @property
    @abstractmethod
    def claimed_seconds(self) -> float | None:
        """Length that the container claims, known right after ``open``; None when it does not tell."""

    @abstractmethod
    def timeline(self) -> Timeline:
        """Time of each presentable frame."""

    def count(self) -> Timeline:
        """The same, by decoding everything: only frames that do decode are counted."""
        return self.timeline()

    @abstractmethod
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        """Yield each frame as uint8 ``[h, w, 3]`` RGB, upright, shrunk so that no side exceeds ``max_side``.

        A frame stays as it is while the next ones are decoded.

        Args:
            indices: strictly increasing positions in ``timeline()``, or in ``count()`` once that was called.

        Raises:
            Uncounted: a frame does not decode.
        """

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame at full size, known once a frame was read."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that a viewer would not expect of the frames that were read, a line each."""
        return ()

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


def require_readers(readers: Sequence[str]) -> list[str]:
    """The names of readers that exist, of which at least one is installed.

    Raises:
        UsageError: there is no reader of that name, or none of them is installed.
    """
    names = list(readers)
    unknown = [name for name in names if name not in READERS and ":" not in name]
    if unknown or not names:
        raise UsageError(
            f"no such video reader: {unknown[0]}" if unknown else "no video reader was named",
            why="a reader has a built-in name or is written module:class",
            hint=f"use one of: {', '.join(READERS)}",
        )
    if not any(name not in LIBRARIES or importlib.util.find_spec(LIBRARIES[name]) for name in names):
        raise UsageError(
            f"the video reader {names[0]} is not installed",
            why=f"Python finds no module {LIBRARIES[names[0]]!r}",
            hint="leave the choice to vidcomp: --reader auto; vidcomp doctor lists the readers that work",
        )
    return names


_POOL = ThreadPoolExecutor(4)  # a thread that waits begins sooner than a new one, which its maker waits for


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start native work that releases the interpreter. Nobody waits for it unless its result is asked for."""
    return _POOL.submit(work)


def shrink(image: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """Scale ``[h, w, 3]`` down by area averaging so that no side exceeds ``max_side``; smaller ones stay."""
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    import cv2

    return np.asarray(cv2.resize(image, fitted(width, height, max_side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
