# SPDX-License-Identifier: Apache-2.0
"""The packet table of a long MP4 without reading the whole file.

FFmpeg's index gives decoding time, size, key flag and position of every packet, edits applied; what it lacks is the
distance from decoding to presentation time, which is a box of its own (``ctts``). The table is believed only when it
equals the first packets as the demuxer gives them; otherwise, and for files with hidden packets, every packet is read.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import box_inside, boxes, track_number
from vidcomp.video.container.libav import demux

__all__ = ["FIRST_PACKETS", "Mismatch", "index_table"]

PECULIAR = frozenset({"vp8", "mpeg4"})  # codecs of which some packets tell by their bytes that they hold no picture
LEAST_PACKETS = 2000  # shorter files are read through in no time
FIRST_PACKETS = 256  # compared with the demuxer
MAX_TABLE_BYTES = 1 << 28

Ticks = NDArray[np.int64]


class Mismatch(Exception):
    """A table differs from the packets that the demuxer gives."""


def index_table(path: str, container: Any, stream: Any) -> tuple[Ticks, str] | None:
    """Return presentation time, decoding time, duration and key flag ``[N, 4]`` in decoding order, and what is wrong.

    None when the file does not tell enough: the container stands at its start then.

    Raises:
        Mismatch: the table is not what the demuxer gives. The container stands behind some packets.
    """
    if not container.format.name.startswith("mov"):
        return None
    if stream.frames < LEAST_PACKETS or stream.codec_context.name in PECULIAR:
        return None
    if not hasattr(stream, "index_entries"):  # before PyAV 17
        return None
    facts = (
        (e.timestamp, e.timestamp, e.is_keyframe, e.is_discard, e.size, e.pos + e.size) for e in stream.index_entries
    )
    # Not through a list: one of four hours of video would hold 60 MB.
    rows = np.fromiter(itertools.chain.from_iterable(facts), np.int64).reshape(-1, 6)
    if len(rows) != stream.frames or rows[:, 3].any() or not rows[:, 4].all():
        return None  # packets that are hidden, or empty: the demuxer does not hand those out
    boxes = _per_sample(path, stream.id, len(rows))
    if boxes is None:
        return None
    durations, offsets = boxes
    rows[:, 0] += offsets
    if not _begins_like(container, stream, rows):
        raise Mismatch
    missing = int((rows[:, 5] > os.stat(path).st_size).sum())
    table = np.column_stack([rows[:, :2], durations, rows[:, 2]])
    return table, f"{missing} of {len(rows)} pictures are missing" if missing else ""


def _begins_like(container: Any, stream: Any, rows: Ticks) -> bool:
    """Compare with the first packets; shifts the presentation times, in place, by what the demuxer adds to all."""
    for number, packet in enumerate(demux(container, stream)):
        if number >= FIRST_PACKETS:
            return True
        if packet.pts is None:
            return False
        if number == 0:
            rows[:, 0] += packet.pts - rows[0, 0]
        if (packet.pts, packet.dts, packet.is_keyframe) != tuple(rows[number, :3]):
            return False
    return False


def _per_sample(path: str, track: int, count: int) -> tuple[Ticks, Ticks] | None:
    """Duration, and presentation minus decoding time, of every sample of a track, int64 ``[count]`` each."""
    with open(path, "rb") as file:
        table = _sample_table(file.fileno(), track)
        durations = _runs(file.fileno(), box_inside(file.fileno(), table, b"stts"), count)
        offsets = _runs(file.fileno(), box_inside(file.fileno(), table, b"ctts"), count)
    return None if durations is None or offsets is None else (durations, offsets)


def _runs(fd: int, box: tuple[bytes, int, int] | None, count: int) -> Ticks | None:
    """A box of run lengths and values, one value for each of ``count`` samples; zeros without such a box."""
    if box is None:
        return np.zeros(count, np.int64)
    body = os.pread(fd, min(box[2] - box[1], MAX_TABLE_BYTES), box[1])
    pairs = np.frombuffer(body[8 : 8 + (len(body) - 8) // 8 * 8], dtype=">i4").reshape(-1, 2).astype(np.int64)
    if (pairs[:, 0] < 0).any() or pairs[:, 0].sum() != count:
        return None
    return np.repeat(pairs[:, 1], pairs[:, 0])


def _sample_table(fd: int, track: int) -> tuple[bytes, int, int] | None:
    """The ``stbl`` box of the track with this number."""
    top: tuple[bytes, int, int] = (b"", 0, os.fstat(fd).st_size)
    movie = box_inside(fd, top, b"moov")
    for box in boxes(fd, movie[1], movie[2]) if movie else ():
        head = box_inside(fd, box, b"tkhd") if box[0] == b"trak" else None
        if head is None:
            continue
        if track_number(os.pread(fd, 32, head[1])) == track:
            return box_inside(fd, box, b"mdia", b"minf", b"stbl")
    return None
