# SPDX-License-Identifier: Apache-2.0
"""Readers that misbehave, for the tests of isolation. Imported in the decoding child, so kept light."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.scan import Timeline
from vidcomp.video.readers.base import ReaderError, Source, VideoReader


class Painted(VideoReader):
    """A reader that needs no library: ten grey frames."""

    name = "painted"

    def open(self, source: Source) -> None:
        os.write(2, b"[codec @ 0x1] chatter on standard error\n")

    @property
    def claimed_seconds(self) -> float | None:
        return 1.0

    def timeline(self) -> Timeline:
        return Timeline(np.arange(10), Fraction(1, 10))

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        for index in indices:
            yield np.full((4, 6, 3), index, np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        return (6, 4)

    def close(self) -> None:
        pass


class Hanging(Painted):
    """Hangs in native code and keeps the interpreter lock, so that no Python code runs."""

    def timeline(self) -> Timeline:
        ctypes.PyDLL(None).sleep(36_000)
        raise AssertionError


class Crashing(Painted):
    def timeline(self) -> Timeline:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Leaving(Painted):
    def timeline(self) -> Timeline:
        os._exit(7)


class Raising(Painted):
    def timeline(self) -> Timeline:
        raise KeyError("inside")


class Greedy(Painted):
    def timeline(self) -> Timeline:
        return Timeline(np.ones(1 << 34, np.int64), Fraction(1))


class Short(Painted):
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        return super().read(indices[:-1], max_side)


class Growing(Painted):
    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        return (np.zeros((4 + index, 6, 3), np.uint8) for index in indices)


class Hoarding(Painted):
    """Keeps two hundred megabytes."""

    kept: ClassVar[list[bytes]] = []

    def open(self, source: Source) -> None:
        super().open(source)
        self.kept.append(b"\1" * 200_000_000)


class Modules(Painted):
    """Fails with the names of the heavy modules that the child has loaded."""

    def open(self, source: Source) -> None:
        heavy = [name for name in ("torch", "transformers", "rich") if name in sys.modules]
        raise ReaderError(f"loaded: {heavy}")
