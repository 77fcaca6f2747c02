# SPDX-License-Identifier: Apache-2.0
"""The blocks of a long Matroska or WebM file, by walking from element head to element head.

FFmpeg's demuxer reads every byte of a file to list its packets; walking touches a page per block, in all clusters side
by side. Whatever is not plain (laced pictures, clusters of unknown size, several picture tracks, a cut file) is left to
the demuxer. Elements and their numbers: RFC 9559.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.octets import Octets

__all__ = ["block_table", "broken_checksum", "picture_turn"]

SEGMENT, TRACKS, TRACK, CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
TRACK_NUMBER, TRACK_TYPE, PICTURES = 0xD7, 0x83, 1
TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP, BLOCK, REFERENCE = 0xE7, 0xA3, 0xA0, 0xA1, 0xFB
CHECKSUM = 0xBF  # the first element of its parent, about all that follows there
VIDEO, PROJECTION, YAW, ROLL = 0xE0, 0x7670, 0x7673, 0x7675
HEAD = 4  # bytes of a block before its picture: track, time, flags
KEY, STRANGE = 0x80, 0x0E  # flags of a block; strange are those that are not to be shown or hold several pictures
MOST = [(1 << 7 * width) - 1 for width in range(10)]  # of a length of so many bytes; it means that none is known
WIDTHS = [9 - first.bit_length() for first in range(256)]  # bytes of a number that begins with this byte
NUMPY_WIDTHS, NUMPY_MOST = np.array(WIDTHS, np.uint64), np.array(MOST, np.uint64)
MOST_ELEMENTS = 4096  # that are looked at outside the decoding process
MANY = 128  # clusters from which walking them side by side is worth it
Rows = NDArray[np.int64]
Picture = tuple[int, bool]  # time and key flag
Element = tuple[int, int, int]  # number, first byte of the body, first byte after it


class _Strange(Exception):
    """Something that this module leaves to the demuxer."""


def block_table(path: str) -> Rows | None:
    """Presentation time and key flag of every picture ``[N, 2]`` in file order; None when the file is not plain.

    Times are in the segment's own ticks.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _pictures(data)
        except (_Strange, StopIteration, IndexError, ValueError, OverflowError):
            return None


def picture_turn(fd: int) -> tuple[int, bool]:
    """Clockwise degrees by which players turn the pictures, and whether they swap left and right after that.

    As FFmpeg reads a rectangular projection: turned against the clock by its roll, mirrored when its yaw is 180.
    """
    try:
        roll, yaw = next(_projections(Octets(fd)), (0.0, 0.0))
    except (_Strange, IndexError, ValueError):
        return 0, False
    return (round(-roll) % 360 if roll % 90 == 0 else 0), abs(yaw) == 180


def broken_checksum(path: str) -> str:
    """Which part of a file is not what its checksum says, in words; empty when none is. Reads the whole file."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            segment = next(element for element in _elements(data, 0, len(data), live=True) if element[0] == SEGMENT)
            for _, start, stop in _elements(data, *segment[1:], live=True):
                inside = next(_elements(data, start, min(stop, start + 16), live=True), None)
                if inside is None or inside[0] != CHECKSUM or inside[2] - inside[1] != 4:
                    continue
                if zlib.crc32(memoryview(data)[inside[2] : stop]) != int.from_bytes(data[slice(*inside[1:])], "little"):
                    return f"the checksum at byte {start} does not match"
        except (_Strange, StopIteration, IndexError, ValueError):
            pass  # what cannot be walked has no checksums to compare
    return ""


def _projections(data: Octets) -> Iterator[tuple[float, float]]:
    """Roll and yaw in degrees of every picture track that tells them."""
    segment = next(_inside(data, (0, 0, len(data)), SEGMENT, live=True), None)
    tracks = _inside(data, segment, TRACKS, live=True)
    for track in _inside(data, next(tracks, None), TRACK):
        for projection in _inside(data, next(_inside(data, track, VIDEO), None), PROJECTION):
            elements = islice(_elements(data, *projection[1:]), MOST_ELEMENTS)
            facts = {number: _real(data[start : min(stop, start + 9)]) for number, start, stop in elements}
            yield facts.get(ROLL, 0.0), facts.get(YAW, 0.0)


def _inside(data: Octets, parent: Element | None, number: int, live: bool = False) -> Iterator[Element]:
    """The elements with this number among the first in another one; of a segment, those before its first cluster."""
    for element in islice(_elements(data, *parent[1:], live=live), MOST_ELEMENTS) if parent else ():
        if element[0] == number:
            yield element
        if element[0] == CLUSTER:
            return


def _real(body: bytes) -> float:
    return float(struct.unpack(">f" if len(body) == 4 else ">d", body)[0]) if len(body) in (4, 8) else 0.0


def _elements(data: mmap.mmap | Octets, at: int, stop: int, live: bool = False) -> Iterator[Element]:
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


def _number(data: mmap.mmap | Octets, at: int) -> tuple[int, int]:
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


def _pictures(data: mmap.mmap) -> Rows:
    segment = next(element for element in _elements(data, 0, len(data)) if element[0] == SEGMENT)
    track, clusters = 0, []
    for number, start, stop in _elements(data, *segment[1:]):
        if number == TRACKS:
            track = _picture_track(data, start, stop)
        elif number == CLUSTER:
            clusters.append((start, stop))
    walk = _Walk(data, track | 0x80, clusters)
    walk.side_by_side()
    return walk.to_the_end()


class _Walk:
    """A walk through all clusters: side by side while they are many, then each to its end.

    A numpy step for one head in every cluster costs the same for few clusters and for many.

    Attributes:
        at, stop, time: int64 ``[C]`` for the clusters that have not ended: where their next element begins, where they
            end, and their own time, -1 before it was read.
        cluster: int64 ``[C]``, the number of each in the file.
        rows: cluster, time and key flag of the pictures so far, ``[n, 3]`` each, in file order within every cluster.
    """

    def __init__(self, data: mmap.mmap, mark: int, clusters: list[tuple[int, int]]) -> None:
        self.data, self.mark = data, mark
        self.at, self.stop = np.array(clusters, dtype=np.int64).reshape(-1, 2).T
        self.time = np.full(len(clusters), -1, np.int64)
        self.cluster = np.arange(len(clusters))
        self.rows: list[Rows] = []

    def side_by_side(self) -> None:
        """Walk until few clusters are left."""
        octets = np.frombuffer(self.data, np.uint8)
        words = np.ndarray((len(octets) - 7,), ">u8", self.data, strides=(1,))  # the eight bytes from every byte on
        while len(self.at) >= MANY:
            after = self._simple_blocks(octets, words)
            for place in np.flatnonzero(after == 0).tolist():
                found: list[Picture] = []
                where, stop, time = int(self.at[place]), int(self.stop[place]), int(self.time[place])
                after[place], self.time[place] = _other_element(self.data, where, stop, self.mark, time, found)
                self._add(int(self.cluster[place]), found)
            self.at = after
            self._drop_ended()

    def to_the_end(self) -> Rows:
        """Walk the others one by one; time and key flag of every picture ``[N, 2]`` in file order."""
        for cluster, at, stop, time in np.stack([self.cluster, self.at, self.stop, self.time], axis=1).tolist():
            self._add(cluster, _walk_cluster(self.data, at, stop, self.mark, time))
        rows = np.concatenate([np.empty((0, 3), np.int64), *self.rows])
        return rows[np.argsort(rows[:, 0], kind="stable"), 1:]

    def _simple_blocks(self, octets: NDArray[np.uint8], words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Read the next block of every cluster; where the elements after them begin, 0 at what is no simple block."""
        head = words[np.minimum(self.at + 1, len(words) - 1)].astype(np.uint64)  # length, track, time, flags
        width = NUMPY_WIDTHS[head >> 56]
        simple = (octets[self.at] == SIMPLE_BLOCK) & (width <= 4) & (self.at + 1 < len(words))
        size = (head >> (64 - 8 * width)) & NUMPY_MOST[width]
        block = (head << (8 * width)) >> 32
        if (simple & (block >> 31 == 0)).any():
            raise _Strange  # the number of a track in several bytes
        found = np.flatnonzero(simple & (block >> 24 == self.mark) & (size > HEAD))
        block, time = block[found], self.time[found]
        if (block & STRANGE).any() or (time < 0).any():
            raise _Strange
        time = time + (block >> 8).astype(np.int16)
        self.rows.append(np.stack([self.cluster[found], time, (block & KEY) != 0], axis=1))
        return np.where(simple, self.at + 1 + (width + size).astype(np.int64), 0)

    def _add(self, cluster: int, found: list[Picture]) -> None:
        if found:
            self.rows.append(np.array([(cluster, *picture) for picture in found], dtype=np.int64))

    def _drop_ended(self) -> None:
        live = self.at < self.stop
        if live.all():
            return
        if (self.at > self.stop).any():
            raise _Strange
        self.at, self.stop, self.time, self.cluster = (
            column[live] for column in (self.at, self.stop, self.time, self.cluster)
        )


def _walk_cluster(data: mmap.mmap, at: int, stop: int, mark: int, time: int) -> list[Picture]:
    """The pictures from one place in a cluster to its end. Many blocks pass here, so they are read in place."""
    found: list[Picture] = []
    while at < stop:
        if data[at] != SIMPLE_BLOCK:
            at, time = _other_element(data, at, stop, mark, time, found)
            continue
        body = at + 1 + WIDTHS[data[at + 1]]
        size = int.from_bytes(data[at + 1 : body], "big") & MOST[body - at - 1]
        if _holds(data, body, body + size, mark):
            found.append(_picture(data, body, time))
        at = body + size
    if at != stop:
        raise _Strange
    return found


def _other_element(data: mmap.mmap, at: int, stop: int, mark: int, time: int, found: list[Picture]) -> tuple[int, int]:
    """Read an element of a cluster; where the next one begins, and the cluster's time."""
    number, body, after = next(_elements(data, at, stop))
    if number == TIMESTAMP:
        time = int.from_bytes(data[body:after], "big")
    elif number == SIMPLE_BLOCK and _holds(data, body, after, mark):
        found.append(_picture(data, body, time))
    elif number == BLOCK_GROUP:
        elements = list(_elements(data, body, after))
        key = all(inner != REFERENCE for inner, _, _ in elements)  # then it refers to no other picture
        blocks = (start for inner, start, stop in elements if inner == BLOCK and _holds(data, start, stop, mark))
        found.extend((_picture(data, start, time)[0], key) for start in blocks)
    return after, time


def _holds(data: mmap.mmap, body: int, after: int, mark: int) -> bool:
    """True for a block of the picture track that is not empty: the demuxer does not hand those out."""
    if data[body] < 0x80:
        raise _Strange  # the number of a track in several bytes
    return data[body] == mark and after - body > HEAD


def _picture(data: mmap.mmap, body: int, time: int) -> Picture:
    """Time and key flag of a block in a cluster of that time."""
    _, high, low, flags = data[body : body + 4]
    if flags & STRANGE or time < 0:
        raise _Strange
    return time + (high << 8 | low) - (high >> 7 << 16), flags >= KEY
