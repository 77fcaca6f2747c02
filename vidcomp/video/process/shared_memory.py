# SPDX-License-Identifier: Apache-2.0
"""Memory shared with the decoding child: first the request, then the frames. Files without names.

The kernel takes four times as long to find new pages as to fill old ones: for a short clip a tenth of the whole job.
So the memory of one job serves a later one, once nothing in this process can see it any more.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.readers.base import ReaderError

__all__ = ["Arena"]

Scalar = TypeVar("Scalar", np.uint8, np.int64)

MOST_BYTES = 64 << 20  # more is given back to the system


class _Spare:
    """At most one memory file that waits for its next job."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.forks = 0

    def take(self) -> int:
        try:
            return self.descriptors.pop()
        except IndexError:
            return _create()

    def put(self, descriptor: int, forks: int) -> None:
        """Keep a file that nobody looks at, or close it."""
        if forks == self.forks and not self.descriptors and os.fstat(descriptor).st_size <= MOST_BYTES:
            self.descriptors.append(descriptor)
        else:
            os.close(descriptor)

    def forget(self) -> None:
        """Before a fork: the other process keeps seeing whatever it inherits."""
        self.forks += 1
        while self.descriptors:
            os.close(self.descriptors.pop())


_SPARE = _Spare()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_SPARE.forget)


def _create() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vidcomp-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Arena:
    """The memory of one job. Arrays made by :meth:`map` live on after :meth:`close`.

    Attributes:
        descriptor: of the file, for the child.
        done: the child has finished and writes no more; only then may another job have the memory.
    """

    def __init__(self) -> None:
        self.descriptor = _SPARE.take()
        self.done = False
        self._forks = _SPARE.forks
        self._seen: list[weakref.ref[mmap.mmap]] = []

    def map(self, kind: type[Scalar], shape: list[int]) -> NDArray[Scalar]:
        """What the child has written, from the start on.

        Raises:
            ReaderError: the file is shorter than that.
        """
        total = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        if os.fstat(self.descriptor).st_size < total:
            raise ReaderError("delivered fewer bytes than it said", "crash")
        mapping = mmap.mmap(self.descriptor, total)
        self._seen.append(weakref.ref(mapping))
        return np.frombuffer(mapping, dtype=kind).reshape(shape)

    def close(self) -> None:
        """Give the file to a later job once every array is gone, or at once when that cannot be."""
        seen = [mapping for mapping in (reference() for reference in self._seen) if mapping is not None]
        if not self.done or len(seen) > 1:
            os.close(self.descriptor)
        elif seen:
            weakref.finalize(seen[0], _SPARE.put, self.descriptor, self._forks).atexit = False
        else:
            _SPARE.put(self.descriptor, self._forks)
