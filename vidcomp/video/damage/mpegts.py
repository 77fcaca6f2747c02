# SPDX-License-Identifier: Apache-2.0
"""The packets of a transport stream: what their fixed bytes and their checksums say.

A transport stream has no length, and demuxers step over what is wrong with it. Its packets are all of one size, its
tables have a checksum, and what fills a packet up is 0xFF (ISO 13818-1, 2.4.3 and 2.4.4).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import TS_PACKETS

__all__ = ["broken_packets"]

SIZE = 188
BLOCK = 1 << 14  # packets that are looked at together: three megabytes
SYNC, FILL = 0x47, 0xFF
FAULTY, BEGINS = 0x80, 0x40  # bits of byte 1: damaged on its way; a table begins here
FIELD, LOAD = 0x20, 0x10  # bits of byte 3: an adaptation field follows; so does a payload
CLOCK, OLD_CLOCK, SPLICE, MORE = 0x10, 0x08, 0x04, 0x03  # what such a field holds; MORE has a length of its own
PROGRAMS, SERVICES = 0, 0x11  # numbers of packets that hold tables
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Packets = NDArray[np.uint8]  # [n, 188]


def broken_packets(path: str, most_bytes: int) -> str:
    """Faults of the packets, in words; empty when nothing is, or when they do not begin with the file.

    Args:
        most_bytes: of the file that are looked at. That it ends in mid-packet is seen anyhow.
    """
    with open(path, "rb") as file:
        fd = file.fileno()
        total = os.fstat(fd).st_size
        for start, step in TS_PACKETS:
            first = _packets(fd, 0, start, step)[:, 0]
            if 2 * (first == SYNC).sum() <= len(first):
                continue
            if total % step:
                return "it ends in mid-packet"
            blocks = (_packets(fd, at, start, step) for at in range(0, min(total, most_bytes), BLOCK * step))
            return next(filter(None, map(_broken_block, blocks)), "")
    return ""


def _packets(fd: int, at: int, start: int, step: int) -> Packets:
    """A block of them from one place on, without the clocks of cameras."""
    data = os.pread(fd, BLOCK * step, at)
    return np.frombuffer(data, np.uint8, len(data) // step * step).reshape(-1, step)[:, start : start + SIZE]


def _broken_block(packets: Packets) -> str:
    if (packets[:, 0] != SYNC).any() or (packets[:, 1] & FAULTY).any():
        return "some of its packets are no packets, or marked as faulty"
    return _broken_fields(packets) or _broken_tables(packets)


def _broken_fields(packets: Packets) -> str:
    """Check the filling of adaptation fields. Muxers that always take something else than 0xFF are left in peace."""
    fields = packets[(packets[:, 3] & FIELD != 0) & (packets[:, 4] > 0)]
    length, holds = fields[:, 4, None].astype(np.int64), fields[:, 5, None]
    if (length > SIZE - 5).any():
        return "the header of a packet is longer than the packet"
    held = 1 + 6 * (holds & CLOCK != 0) + 6 * (holds & OLD_CLOCK != 0) + (holds & SPLICE != 0)
    place = np.arange(SIZE) - 5
    filling = fields[(holds & MORE == 0) & (place >= held) & (place < length)]
    return "what fills its packets up is damaged" if _is_mixed(filling) else ""


def _broken_tables(packets: Packets) -> str:
    """The tables that say what the stream holds, as far as each lies in one packet."""
    begins = packets[(packets[:, 1] & BEGINS != 0) & (packets[:, 3] & LOAD != 0)]
    numbers = (begins[:, 1].astype(np.int64) & 0x1F) << 8 | begins[:, 2]
    tables = {PROGRAMS, SERVICES}
    for packet in set(map(bytes, begins[numbers == PROGRAMS])):
        tables.update(_program_numbers(packet))
    for packet in set(map(bytes, begins[np.isin(numbers, list(tables))])):
        sections = list(_sections(packet))
        if not all(_has_its_checksum(packet[start:end]) for start, end in sections):
            return "the checksum of a table does not match"
        if sections and _is_mixed(np.frombuffer(packet[sections[-1][1] :], np.uint8)):
            return "what fills its packets up is damaged"
    return ""


def _sections(packet: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the tables that lie in a packet as a whole."""
    at = 4 + (1 + packet[4] if packet[3] & FIELD else 0)
    at += 1 + packet[at] if at < SIZE else 0
    while at + 3 <= SIZE and packet[at] != FILL:
        end = at + 3 + (int.from_bytes(packet[at + 1 : at + 3], "big") & 0xFFF)
        if end > SIZE or end < at + 7:
            return
        yield at, end
        at = end


def _has_its_checksum(section: bytes) -> bool:
    """Its last four bytes are that of the others: CRC-32 with the bits of every byte the other way round."""
    mirrored = section.translate(REVERSED)
    return zlib.crc32(mirrored[:-4]) ^ 0xFFFFFFFF == int.from_bytes(mirrored[-4:], "little")


def _program_numbers(packet: bytes) -> Iterator[int]:
    """Numbers of the packets that describe each program."""
    for start, end in _sections(packet):
        for at in range(start + 8, end - 7, 4):
            yield int.from_bytes(packet[at + 2 : at + 4], "big") & 0x1FFF


def _is_mixed(filling: NDArray[np.uint8]) -> bool:
    filled = filling == FILL
    return bool(filled.any() and not filled.all())
