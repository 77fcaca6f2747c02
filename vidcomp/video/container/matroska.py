# SPDX-License-Identifier: Apache-2.0
"""Elements of a Matroska or WebM file that no demuxer reports: the projection, and checksums (RFC 9559)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice

from vidcomp.video.container.file_bytes import FileBytes

__all__ = ["broken_checksum", "picture_turn"]

SEGMENT, TRACKS, TRACK, CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
CHECKSUM = 0xBF  # the first element of its parent, about all that follows there
VIDEO, PROJECTION, YAW, ROLL = 0xE0, 0x7670, 0x7673, 0x7675
MOST_ELEMENTS = 4096  # of one parent, that are looked at outside the decoding process

Element = tuple[int, int, int]  # number, first byte of the body, first byte after it


def picture_turn(fd: int) -> tuple[int, bool]:
    """Return the clockwise degrees by which players turn the pictures, and whether they then swap left and right.

    As FFmpeg reads a rectangular projection: rotated against the clock by its roll, mirrored when its yaw is 180.
    """
    try:
        roll, yaw = next(_projections(FileBytes(fd)), (0.0, 0.0))
    except (IndexError, ValueError):
        return 0, False
    return (round(-roll) % 360 if roll % 90 == 0 else 0), abs(yaw) == 180


def broken_checksum(path: str) -> str:
    """Compare all checksums. Return which part of the file differs, in words; empty when none does."""
    with open(path, "rb") as file:
        data = FileBytes(file.fileno())
        try:
            segment = next(_inside(data, (0, 0, len(data)), SEGMENT), None)
            for _, start, stop in _elements(data, *segment[1:]) if segment else ():
                first = next(_elements(data, start, min(stop, start + 16)), None)
                if first is None or first[0] != CHECKSUM or first[2] - first[1] != 4:
                    continue
                if zlib.crc32(data[first[2] : stop]) != int.from_bytes(data[first[1] : first[2]], "little"):
                    return f"the checksum at byte {start} does not match"
        except (IndexError, ValueError):
            pass  # what is not made of elements has no checksums to compare
    return ""


def _projections(data: FileBytes) -> Iterator[tuple[float, float]]:
    """Yield roll and yaw in degrees of every picture track that states them."""
    segment = next(_inside(data, (0, 0, len(data)), SEGMENT), None)
    for track in _inside(data, next(_inside(data, segment, TRACKS), None), TRACK):
        for projection in _inside(data, next(_inside(data, track, VIDEO), None), PROJECTION):
            elements = islice(_elements(data, *projection[1:]), MOST_ELEMENTS)
            angles = {number: _real(data[start : min(stop, start + 9)]) for number, start, stop in elements}
            yield angles.get(ROLL, 0.0), angles.get(YAW, 0.0)


def _inside(data: FileBytes, parent: Element | None, number: int) -> Iterator[Element]:
    """Yield the elements with this number in another one; of a segment, those before its first cluster."""
    for element in islice(_elements(data, *parent[1:]), MOST_ELEMENTS) if parent else ():
        if element[0] == number:
            yield element
        if element[0] == CLUSTER:
            return


def _real(body: bytes) -> float:
    return float(struct.unpack(">f" if len(body) == 4 else ">d", body)[0]) if len(body) in (4, 8) else 0.0


def _elements(data: FileBytes, at: int, stop: int) -> Iterator[Element]:
    """Yield the elements between two positions. One without a known length, or cut off, ends at ``stop``."""
    while at < stop:
        width = 9 - data[at].bit_length()
        number, at = int.from_bytes(data[at : at + width], "big"), at + width
        width = 9 - data[at].bit_length()
        most = (1 << 7 * width) - 1  # of a length of so many bytes; it means that none is known
        size, at = int.from_bytes(data[at : at + width], "big") & most, at + width
        end = stop if size == most else min(at + size, stop)
        yield number, at, end
        at = end
