# SPDX-License-Identifier: Apache-2.0
"""The chunks of an AVI: what its index and its header say.

Numbers are little-endian; a chunk has a name, a length and as many bytes, made even (Microsoft's AVI RIFF reference).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

__all__ = ["contradiction", "empty_chunks"]

MOST_CHUNKS = 64  # at the top of a file, or in one list
MOST_INDEX_BYTES = 1 << 28
MOST_BITS = 64  # of a pixel
INDEX_ROW = np.dtype([("stream", "S2"), ("kind", "S2"), ("flags", "<u4"), ("offset", "<u4"), ("size", "<u4")])


class _Chunk(NamedTuple):
    name: bytes  # of a list, what it holds
    start: int  # of its body
    stop: int


def empty_chunks(path: str, number: int) -> int:
    """Chunks without a byte that the index of an AVI lists for a stream: the picture before stays on the screen.

    FFmpeg does not hand them out, and the header counts them.
    """
    with open(path, "rb") as file:
        index = next((chunk for chunk in _top(file.fileno()) if chunk.name == b"idx1"), None)
        if index is None:
            return 0
        body = os.pread(file.fileno(), min(index.stop - index.start, MOST_INDEX_BYTES), index.start)
    rows = np.frombuffer(body[: len(body) // 16 * 16], dtype=INDEX_ROW)
    return int(((rows["stream"] == b"%02d" % number) & (rows["size"] == 0)).sum())


def contradiction(path: str) -> str:
    """Contradiction in an AVI's header, which players put up with; empty when there is none."""
    with open(path, "rb") as file:
        fd = file.fileno()
        header = next((chunk for chunk in _top(fd) if chunk.name == b"hdrl"), None)
        parts = _parts(fd, header) if header else []
        streams = [_parts(fd, part) for part in parts if part.name == b"strl"]
        if not parts or parts[0].name != b"avih" or not all(streams):
            return "the parts of its header do not fit together"
        main = np.frombuffer(os.pread(fd, 40, parts[0].start), "<u4")
        if len(main) < 10 or main[6] != len(streams):
            return "its header counts other tracks than it describes"
        formats = [_format(fd, stream) for stream in streams]
    pictures = [format for format in formats if format is not None]
    if any(bits > MOST_BITS for _, _, bits in pictures):
        return "its header tells an impossible number of bits per pixel"
    width, height = int(main[8]), int(main[9])
    if len(pictures) == 1 and width and height and (width, height) != pictures[0][:2]:
        return "its header tells two picture sizes"
    return ""


def _format(fd: int, stream: list[_Chunk]) -> tuple[int, int, int] | None:
    """Width, height and bits per pixel of a picture track, None for another one."""
    found = {chunk.name: os.pread(fd, 16, chunk.start) for chunk in stream}
    head, body = found.get(b"strh", b""), found.get(b"strf", b"")
    if head[:4] != b"vids" or len(body) < 16:
        return None
    width, height = np.frombuffer(body[4:12], "<i4").tolist()
    return abs(width), abs(height), int.from_bytes(body[14:16], "little")


def _top(fd: int) -> Iterator[_Chunk]:
    return islice(_chunks(fd, 12, os.fstat(fd).st_size), MOST_CHUNKS)


def _parts(fd: int, parent: _Chunk) -> list[_Chunk]:
    """Content of a list; nothing when that does not fill it exactly."""
    found = list(islice(_chunks(fd, parent.start, parent.stop), MOST_CHUNKS))
    whole = found and found[-1].stop + found[-1].stop % 2 == parent.stop
    named = all(32 <= letter < 127 for chunk in found for letter in chunk.name)
    return found if whole and named else []


def _chunks(fd: int, at: int, end: int) -> Iterator[_Chunk]:
    while at + 8 <= end:
        head = os.pread(fd, 12, at)
        if len(head) < 8:
            return
        size = int.from_bytes(head[4:8], "little")
        listed = head[:4] in (b"LIST", b"RIFF") and size >= 4
        yield _Chunk(head[8:12] if listed else head[:4], at + 12 if listed else at + 8, at + 8 + size)
        at += 8 + size + size % 2
