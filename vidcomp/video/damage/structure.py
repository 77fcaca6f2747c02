# SPDX-License-Identifier: Apache-2.0
"""Containers whose own lengths, counts or checksums contradict their content, which demuxers step over.

FFmpeg's ``err_detect`` (``crccheck``, ``explode`` and the others) reports none of the Matroska and AVI cases of the
tests, one of three in Flash video, and logs two of seven in transport streams, which is why they are checked here.
"""

from __future__ import annotations

import os

from vidcomp.video.container.matroska import broken_checksum
from vidcomp.video.container.riff import contradiction
from vidcomp.video.damage.mpegts import broken_packets
from vidcomp.video.readers.base import Source

__all__ = ["SMALL_BYTES", "broken_chain", "broken_structure"]

SMALL_BYTES = 4 << 20  # of a file that is read whole: a few milliseconds
TAG = 11  # bytes of a tag of Flash video before its data
KINDS = frozenset({8, 9, 15, 18})  # sound, pictures, and two forms of remarks


def broken_structure(source: Source, thorough: bool = False) -> str:
    """Return what is wrong with the container, in words; empty when nothing is.

    Reads the first ``SMALL_BYTES`` of a stream and the header of an AVI; other files whole, if they are small or
    ``thorough`` asks for it.
    """
    path, container = source.path, source.facts.container
    most = os.stat(path).st_size if thorough else SMALL_BYTES
    if container == "avi":
        return contradiction(path)
    if container == "mpegts":
        return broken_packets(path, most)
    if os.stat(path).st_size > most:
        return ""
    if container == "flv":
        return broken_chain(path)
    return broken_checksum(path) if source.header.kind == "matroska" else ""


def broken_chain(path: str) -> str:
    """Return what is wrong with the tags of a Flash video, in words; empty when nothing is.

    Their lengths stand before and after each (Adobe Flash Video File Format Specification 10.1, annex E). Files whose
    muxer writes every length after a tag wrong are not reported.
    """
    with open(path, "rb") as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        at = int.from_bytes(os.pread(fd, 4, 5), "big") + 4
        fits = misfits = 0
        while at < size:
            head = os.pread(fd, TAG, at)
            end = at + TAG + int.from_bytes(head[1:4], "big")
            after = os.pread(fd, 4, end)
            if len(after) < 4:
                return "it ends within a tag"
            if head[0] & 0x1F not in KINDS or any(head[8:11]):
                return f"there is no tag at byte {at}"
            same = int.from_bytes(after, "big") == end - at
            fits, misfits = fits + same, misfits + (not same)
            at = end + 4
    return f"{misfits} of {fits + misfits} tags have another length than they state" if fits and misfits else ""
