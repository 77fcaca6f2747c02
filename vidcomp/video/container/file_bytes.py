# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file by position, read a piece at a time.

A file that shrinks, or a disk that goes away, ends a process that has it mapped; here it only gives fewer bytes.
"""

from __future__ import annotations

import os
from typing import overload

__all__ = ["FileBytes"]

PIECE_BYTES = 1 << 12


class FileBytes:
    """Like ``bytes`` of the whole file, for a reader that goes forward in small steps."""

    def __init__(self, fd: int) -> None:
        self._fd, self._start, self._piece = fd, 0, b""

    def __len__(self) -> int:
        return os.fstat(self._fd).st_size

    @overload
    def __getitem__(self, where: int) -> int: ...

    @overload
    def __getitem__(self, where: slice) -> bytes: ...

    def __getitem__(self, where: int | slice) -> int | bytes:
        """Return a byte, or those between two positions. Behind the end: IndexError, or fewer."""
        start, stop = (where.start, where.stop) if isinstance(where, slice) else (where, where + 1)
        if not self._start <= start <= stop <= self._start + len(self._piece):
            self._start, self._piece = start, os.pread(self._fd, max(PIECE_BYTES, stop - start), start)
        found = self._piece[start - self._start : stop - self._start]
        return found if isinstance(where, slice) else found[0]
