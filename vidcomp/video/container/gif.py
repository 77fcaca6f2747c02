# SPDX-License-Identifier: Apache-2.0
"""Check that a GIF is whole: FFmpeg shows what is left of a cut picture over the one before, and says nothing."""

from __future__ import annotations

import mmap

__all__ = ["gif_ends"]

EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B


def gif_ends(path: str) -> bool:
    """True when walking from block to block leads to the trailer (GIF89a, appendix A). Reads the whole file."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 13 + _colours(data[10])
            while (kind := data[at]) != TRAILER:
                if kind == IMAGE:
                    at += 11 + _colours(data[at + 9])  # descriptor, colours, code size
                elif kind == EXTENSION:
                    at += 2
                elif kind:  # a stray end of a block does no harm
                    return False
                while data[at]:
                    at += data[at] + 1
                at += 1
    except (IndexError, ValueError):
        return False
    return True


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
