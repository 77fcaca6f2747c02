"""The blocks of a long Matroska or WebM file, by walking from element head to element head.

FFmpeg's demuxer reads every byte of a file to list its packets; walking touches a page per block and takes a quarter of
the time. Whatever is not plain (laced pictures, clusters of unknown size, several picture tracks, a cut file) is left
to the demuxer. Elements and their numbers: RFC 9559.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["block_table", "picture_turn"]

SEGMENT, TRACKS, TRACK, CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
TRACK_NUMBER, TRACK_TYPE, PICTURES = 0xD7, 0x83, 1
TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP, BLOCK, REFERENCE = 0xE7, 0xA3, 0xA0, 0xA1, 0xFB
VIDEO, PROJECTION, YAW, ROLL = 0xE0, 0x7670, 0x7673, 0x7675
KEY, STRANGE = 0x80, 0x0E  # flags of a block; strange are those that are not to be shown or hold several pictures
MOST = [(1 << 7 * width) - 1 for width in range(10)]  # of a length of so many bytes; it means that none is known
WIDTHS = [9 - first.bit_length() for first in range(256)]  # bytes of a number that begins with this byte
Element = tuple[int, int, int]  # number, first byte of the body, first byte after it


class _Strange(Exception):
    """Something that this module leaves to the demuxer."""


def block_table(path: str) -> NDArray[np.int64] | None:
    """Presentation time and key flag of every picture ``[N, 2]`` in file order; None when the file is not plain.

    Times are in the segment's own ticks.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            segment = next(element for element in _elements(data, 0, len(data)) if element[0] == SEGMENT)
            rows: list[tuple[int, bool]] = []
            track = 0
            for number, start, stop in _elements(data, *segment[1:]):
                if number == TRACKS:
                    track = _picture_track(data, start, stop)
                elif number == CLUSTER:
                    _walk_cluster(data, start, stop, track, rows)
        except (_Strange, StopIteration, IndexError, ValueError):
            return None
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def picture_turn(fd: int) -> tuple[int, bool]:
    """Clockwise degrees by which players turn the pictures, and whether they swap left and right after that.

    As FFmpeg reads a rectangular projection: turned against the clock by its roll, mirrored when its yaw is 180.
    """
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
        try:
            roll, yaw = next(_projections(data), (0.0, 0.0))
        except (_Strange, IndexError, ValueError):
            return 0, False
    return (round(-roll) % 360 if roll % 90 == 0 else 0), abs(yaw) == 180


def _projections(data: mmap.mmap) -> Iterator[tuple[float, float]]:
    """Roll and yaw in degrees of every picture track that tells them."""
    segment = next((element for element in _elements(data, 0, len(data), live=True) if element[0] == SEGMENT), None)
    tracks = _inside(data, segment, TRACKS, live=True)
    for track in _inside(data, next(tracks, None), TRACK):
        for projection in _inside(data, next(_inside(data, track, VIDEO), None), PROJECTION):
            facts = {number: _real(data[start:stop]) for number, start, stop in _elements(data, *projection[1:])}
            yield facts.get(ROLL, 0.0), facts.get(YAW, 0.0)


def _inside(data: mmap.mmap, parent: Element | None, number: int, live: bool = False) -> Iterator[Element]:
    """The elements with this number in another one; of a segment, those before its first cluster."""
    for element in _elements(data, *parent[1:], live=live) if parent else ():
        if element[0] == number:
            yield element
        if element[0] == CLUSTER:
            return


def _real(body: bytes) -> float:
    return float(struct.unpack(">f" if len(body) == 4 else ">d", body)[0]) if len(body) in (4, 8) else 0.0


def _elements(data: mmap.mmap, at: int, stop: int, live: bool = False) -> Iterator[Element]:
    """The elements between two places; of a ``live`` recording, or a cut one, the last has no known end."""
    while at < stop:
        width = WIDTHS[data[at]]
        number = int.from_bytes(data[at : at + width], "big")
        at += width
        try:
            size, at = _number(data, at)
        except _Strange:
            if not live:
                raise
            size, at = stop, at + WIDTHS[data[at]]
        if at + size > stop:
            if not live:
                raise _Strange
            size = stop - at
        yield number, at, at + size
        at += size


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A length, and the place behind it."""
    width = WIDTHS[data[at]]
    value = int.from_bytes(data[at : at + width], "big") & MOST[width]
    if width > 8 or value == MOST[width]:
        raise _Strange  # a length that is not known
    return value, at + width


def _picture_track(data: mmap.mmap, start: int, stop: int) -> int:
    """The number of the only picture track, below 128."""
    found = []
    for track in (element for element in _elements(data, start, stop) if element[0] == TRACK):
        facts = {number: int.from_bytes(data[a:b], "big") for number, a, b in _elements(data, *track[1:]) if b - a <= 8}
        if facts.get(TRACK_TYPE) == PICTURES:
            found.append(facts.get(TRACK_NUMBER, 0))
    if len(found) != 1 or not 0 < found[0] < 128:
        raise _Strange
    return found[0]


def _walk_cluster(data: mmap.mmap, at: int, stop: int, track: int, rows: list[tuple[int, bool]]) -> None:
    """Add the pictures of one cluster. A hundred thousand blocks an hour pass here, so they are read in place."""
    mark, time = track | 0x80, -1
    while at < stop:
        if data[at] == SIMPLE_BLOCK:
            body = at + 1 + WIDTHS[data[at + 1]]
            size = int.from_bytes(data[at + 1 : body], "big") & MOST[body - at - 1]
            if data[body] == mark:
                _, high, low, flags = data[body : body + 4]
                if flags & STRANGE or time < 0:
                    raise _Strange
                rows.append((time + (high << 8 | low) - (high >> 7 << 16), flags >= KEY))
            at = body + size
            continue
        number, body, after = next(_elements(data, at, stop))
        if number == BLOCK_GROUP:
            rows.extend(_group(data, body, after, mark, time))
        elif number == TIMESTAMP:
            time = int.from_bytes(data[body:after], "big")
        at = after
    if at != stop:
        raise _Strange


def _group(data: mmap.mmap, at: int, stop: int, mark: int, time: int) -> Iterator[tuple[int, bool]]:
    """The picture of a block group; it is a key frame when it refers to no other."""
    elements = list(_elements(data, at, stop))
    key = all(number != REFERENCE for number, _, _ in elements)
    for number, start, _ in elements:
        if number == BLOCK and data[start] == mark:
            if data[start + 3] & STRANGE or time < 0:
                raise _Strange
            yield time + int.from_bytes(data[start + 1 : start + 3], "big", signed=True), key
