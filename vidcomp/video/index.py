"""The packet table of a long MP4 from its index alone, which spares reading the whole file to list its packets.

FFmpeg's index gives decoding time, size, key flag and place of every packet, edits applied; what it lacks is the
distance from decoding to presentation time, which is a box of its own (``ctts``). The table made of both is believed
only when it equals the first packets as the demuxer gives them; otherwise, and for files with hidden packets, every
packet is read.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import box_inside, boxes

__all__ = ["FIRST_PACKETS", "index_table"]

LEAST_PACKETS = 2000  # shorter files are read through in no time
FIRST_PACKETS = 256  # compared with the demuxer
MAX_TABLE_BYTES = 1 << 28

Ticks = NDArray[np.int64]


def index_table(path: str, container: Any, stream: Any) -> tuple[Ticks, str] | None:
    """Rows of presentation time, decoding time and key flag ``[N, 3]`` in decoding order, and what is wrong with them.

    None when the index does not tell enough; the container stands at its start then, and behind some packets else.
    """
    if "mov" not in container.format.name or stream.frames < LEAST_PACKETS:
        return None
    entries = stream.index_entries
    rows = np.array(
        [(e.timestamp, e.timestamp, e.is_keyframe, e.is_discard, e.pos + e.size) for e in entries], np.int64
    )
    if len(rows) != stream.frames or rows[:, 3].any():
        return None
    offsets = _composition_offsets(path, stream.id, len(rows))
    if offsets is None:
        return None
    rows[:, 0] += offsets
    if not _begins_like(container, stream, rows):
        container.seek(0, stream=stream, backward=True)
        return None
    missing = int((rows[:, 4] > os.stat(path).st_size).sum())
    return rows[:, :3], f"{missing} of {len(rows)} pictures are missing" if missing else ""


def _begins_like(container: Any, stream: Any, rows: Ticks) -> bool:
    """Compare with the first packets; shifts the presentation times, in place, by what the demuxer adds to all."""
    for number, packet in enumerate(container.demux(stream)):
        if number >= FIRST_PACKETS:
            return True
        if packet.pts is None:
            return False
        if number == 0:
            rows[:, 0] += packet.pts - rows[0, 0]
        if (packet.pts, packet.dts, packet.is_keyframe) != tuple(rows[number, :3]):
            return False
    return False


def _composition_offsets(path: str, track: int, count: int) -> Ticks | None:
    """Presentation minus decoding time of every sample of a track, int64 ``[count]``; zeros without such a box."""
    with open(path, "rb") as file:
        table = _sample_table(file.fileno(), track)
        if table is None:
            return None
        box = box_inside(file.fileno(), table, b"ctts")
        if box is None:
            return np.zeros(count, np.int64)
        body = os.pread(file.fileno(), min(box[2] - box[1], MAX_TABLE_BYTES), box[1])
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
        body = os.pread(fd, 32, head[1])
        start = 20 if body[:1] == b"\x01" else 12
        if int.from_bytes(body[start : start + 4], "big") == track:
            return box_inside(fd, box, b"mdia", b"minf", b"stbl")
    return None
