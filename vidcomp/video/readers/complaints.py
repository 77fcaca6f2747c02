# SPDX-License-Identifier: Apache-2.0
"""Messages of native libraries about damaged data: the log of the decoding child, and what of it counts."""

from __future__ import annotations

import os
import re

from vidcomp.video.readers.base import ReaderError, VideoReader

__all__ = ["damage_of", "log_end", "printed_damage"]

LOG = 2  # descriptor of standard error
MOST_LOG_BYTES = 1 << 20  # that are looked at
DAMAGE = re.compile(  # packets that demuxers call corrupt are judged by the scan
    rb"error while decoding|concealing|(?<!Packet )corrupt|partial file|decode_slice|Error splitting|Invalid NAL"
    rb"|missing picture|ended prematurely|Read error|damaged|Error at MB|Invalid data found|non-existing|truncat"
    rb"|went wrong|invalid as first byte|exceeds (containing|max)|does not match|slice end not reached"
    rb"|overlaps with next|undecodable NALU: (?![89]\b)|failed to decode|frame RPS|outside the valid range|illegal"
    rb"|block unavailable|overread \d|bad vlc|ac/dc index|huffman table|VLC tree|error count|No JPEG data"
    rb"|unsupported coding type|Error parsing|Unknown OBU type|LZW decode failed|Packet mismatch|Marker bit missing"
    rb"|Unknown EBML doctype|slice (too small|mismatch|below image)|invalid (cbp|mb type|frame dimensions)"
    rb"|MVs not available",
    re.IGNORECASE,
)
# Weaker signs, enough to ask the other reader. Complaints about "mmco" come with sound open groups of pictures.
SUSPICION = re.compile(
    DAMAGE.pattern + rb"|error|invalid|missing|could not find ref|out of range|overread|illegal", re.I
)
ADDRESS = re.compile(r" @ 0x[0-9a-f]+")  # differs from run to run
BLACK = re.compile(rb"Cannot convert interlaced")  # OpenCV then hands out black pictures and reports success


def damage_of(reader: VideoReader, since: int = 0) -> str:
    """First complaint of the decoder about damaged data, empty when there is none.

    Args:
        since: where its messages begin in the log.

    Raises:
        ReaderError: the complaint means that the delivered pictures are not the file's.
    """
    log = _log(since)
    text = _first(log)
    if reader.name == "opencv" and BLACK.search(log):
        raise ReaderError("gives black pictures for interlaced video", "doubt")
    if reader.name == "decord" and SUSPICION.search(log):  # it puts copies in place of frames that it cannot decode
        raise ReaderError(
            text or "its decoder complains, and it fills gaps with copies", "damaged" if text else "doubt"
        )
    return text or reader.complaint


def printed_damage(since: int = 0) -> str:
    """The first line about damaged data that a library printed, empty when there is none."""
    return _first(_log(since))


def log_end() -> int:
    """Offset at which the next message will begin."""
    return os.fstat(LOG).st_size


def _first(log: bytes) -> str:
    complaint = next((line for line in log.splitlines() if DAMAGE.search(line)), b"")
    return ADDRESS.sub("", complaint.decode("utf-8", "replace"))[:200]


def _log(since: int) -> bytes:
    return os.pread(LOG, MOST_LOG_BYTES, since)
