"""Readers that misbehave, for the tests of isolation. Imported in the decoding child, so kept light."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import Header
from vidcomp.video.reader import ReaderError, VideoReader


class Painted(VideoReader):
    """A reader that needs no library: ten grey frames."""

    name = "painted"

    def open(self, path: str, header: Header) -> None:
        os.write(2, b"[codec @ 0x1] chatter on standard error\n")

    @property
    def claimed_seconds(self) -> float | None:
        return 1.0

    def frame_times(self) -> NDArray[np.float64]:
        return np.arange(10) / 10

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        for index in indices:
            yield np.full((4, 6, 3), index, np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        return (6, 4)

    def close(self) -> None:
        pass


class Hanging(Painted):
    """Hangs in native code and keeps the interpreter lock, so that not even the lifeline thread runs."""

    def frame_times(self) -> NDArray[np.float64]:
        ctypes.PyDLL(None).sleep(600)
        raise AssertionError


class Crashing(Painted):
    def frame_times(self) -> NDArray[np.float64]:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Leaving(Painted):
    def frame_times(self) -> NDArray[np.float64]:
        os._exit(7)


class Raising(Painted):
    def frame_times(self) -> NDArray[np.float64]:
        raise KeyError("inside")


class Greedy(Painted):
    def frame_times(self) -> NDArray[np.float64]:
        return np.ones(1 << 34)


class Short(Painted):
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        return super().read(indices[:-1], max_side)


class Growing(Painted):
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        return (np.zeros((4 + index, 6, 3), np.uint8) for index in indices)


class Modules(Painted):
    """Fails with the names of the heavy modules that the child has loaded."""

    def open(self, path: str, header: Header) -> None:
        heavy = [name for name in ("torch", "transformers", "cv2", "decord") if name in sys.modules]
        raise ReaderError(f"loaded: {heavy}")
