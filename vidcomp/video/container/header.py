# SPDX-License-Identifier: Apache-2.0
"""Facts that a file's own headers state, read without any decoder and without trusting them.

Decoders do not report edit lists, cut files or absurd sizes. A few hundred bytes of the file do. Reads are bounded and
positioned, so that a hostile header costs neither memory nor time.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vidcomp.errors import InputError
from vidcomp.video.container.matroska import picture_turn

__all__ = ["Header", "box_inside", "boxes", "read_edits", "read_header", "refuse_absurd", "track_number", "turn_of"]

MAX_SIDE = 16_384  # pixels; the largest level of today's codecs is 8192 x 4320
MAX_PIXELS = 1 << 27  # of one frame: 400 MB as RGB
ONE = 1 << 16  # as a number of 16 and 16 bits
MAX_BOXES = 4096  # per level
BOX_BYTES = 1 << 16  # of one box that is looked into
ISO_STARTS = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
ISO_TOP = ISO_STARTS | {b"moof", b"meta", b"uuid", b"sidx", b"mfra", b"udta"}
UNFILLED = 0xFFFFFFFF  # a length that a writer into a pipe could not go back to fill in
ASF = b"\x30\x26\xb2\x75"
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object that tells the size of the file
TURNS = {  # signs of a, b, c and d: clockwise degrees, then mirrored
    (0, 1, -1, 0): (90, False),
    (-1, 0, 0, -1): (180, False),
    (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True),
    (0, 1, 1, 0): (90, True),
    (1, 0, 0, -1): (180, True),
    (0, -1, -1, 0): (270, True),
}
MAGIC = (
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpeg"),
    (b"\x00\x00\x00\x01", "raw"),
    (b"YUV4MPEG2 ", "y4m"),
    (b".RMF", "realmedia"),
)
TS_PACKETS = ((0, 188), (4, 192))  # first sync byte and packet length, broadcast and camera streams


@dataclass(frozen=True)
class Header:
    """Facts that the file gives about itself.

    Attributes:
        kind: container: ``iso`` (MP4, MOV, 3GP), ``matroska`` (MKV, WebM), ``avi``, ``ts`` ... or ``unknown``.
        cut_short: the file ends before its own sizes say it should.
        has_index: False for an ISO file without its index (``moov``).
        has_video: False when the headers list tracks and none of them is video; None when they do not tell.
        seconds: length of the video track after edits; None when the headers do not tell.
        edits: entries of the video track's edit list that show something.
        uneven: what makes the times of an edit list uncertain, in words; empty when nothing does.
        descriptions: of the codec; above 1 when pictures differ in how they are to be decoded.
        samples: packets of the video track; 0 when not known.
        width: claimed by the codec's description; 0 when not known.
        height: likewise.
        codec: four-character code of the video track, such as ``avc1``; empty when not known.
        rotation: clockwise degrees by which players turn the stored picture: 0, 90, 180 or 270.
        mirrored: they swap left and right after that.
        track: number of the video track; 0 when not known.
        fragmented: an ISO file whose pictures are, or may be, listed in fragments and not in the index.
    """

    kind: str = "unknown"
    cut_short: bool = False
    has_index: bool = True
    has_video: bool | None = None
    seconds: float | None = None
    edits: int = 0
    samples: int = 0
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    mirrored: bool = False
    uneven: str = ""
    descriptions: int = 1
    track: int = 0
    fragmented: bool = False


def read_header(fd: int, track: int = 0) -> Header:
    """Read the headers of an open file. Damaged headers give fewer facts, never an error.

    Args:
        track: number of the picture track that counts; by default the one with most packets.
    """
    size = os.fstat(fd).st_size
    head = os.pread(fd, 512, 0)
    try:
        if head[4:8] in ISO_STARTS:
            return _read_iso(fd, size, track)
        if head.startswith(b"\x1aE\xdf\xa3"):
            rotation, mirrored = picture_turn(fd)
            return Header("matroska", _matroska_end(head) > size, rotation=rotation, mirrored=mirrored)
        if head.startswith(b"GIF8"):
            return Header("gif")
        if head.startswith(ASF):
            return Header("asf", cut_short=_asf_size(head) > size)
    except (struct.error, IndexError, ZeroDivisionError):
        return Header(kind="iso" if head[4:8] in ISO_STARTS else "matroska")
    if head[:4] == b"RIFF":
        kind = {b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12], "unknown")
        length = int.from_bytes(head[4:8], "little")
        return Header(kind=kind, cut_short=length != UNFILLED and 8 + length > size)
    if any(head[start] == head[start + step] == 0x47 for start, step in TS_PACKETS if len(head) > start + step):
        return Header(kind="ts")
    return Header(kind=next((kind for magic, kind in MAGIC if head.startswith(magic)), "unknown"))


def refuse_absurd(header: Header, file_bytes: int, name: str) -> None:
    """Refuse claims that no real file makes, before any decoder allocates memory for them.

    Raises:
        InputError: code ``implausible_header``.
    """
    why = ""
    if max(header.width, header.height) > MAX_SIDE or header.width * header.height > MAX_PIXELS:
        why = f"its header claims frames of {header.width} x {header.height} pixels"
    elif header.samples > file_bytes:
        why = f"its header claims {header.samples:,} frames in {file_bytes:,} bytes"
    if why:
        hint = "the file is damaged or was made to harm; do not use it"
        raise InputError(f"cannot read {name}", why=why, hint=hint, code="implausible_header")


def _asf_size(head: bytes) -> int:
    """Bytes that an ASF (WMV) file says it has; 0 when it does not tell or was broadcast."""
    at = head.find(ASF_PROPERTIES)
    if at < 0 or head[at + 88] & 1:
        return 0
    return int.from_bytes(head[at + 40 : at + 48], "little")


def _matroska_end(head: bytes) -> int:
    """End of the segment of a Matroska file, as it says; 0 when it does not say."""
    length, width = _varint(head, 4)
    start = 4 + width + length
    if head[start : start + 4] != b"\x18\x53\x80\x67":
        return 0
    length, width = _varint(head, start + 4)
    unknown = length == (1 << 7 * width) - 1
    return 0 if unknown else start + 4 + width + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Value and byte count of an EBML number."""
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return value, width


Box = tuple[bytes, int, int]  # type, first byte of the body, first byte after it


def boxes(fd: int, start: int, stop: int, *, inside: bool = True) -> Iterator[Box]:
    """The boxes of an ISO file between two places. One that lies inside another ends with it, whatever it claims."""
    for _ in range(MAX_BOXES):
        head = os.pread(fd, 16, start)
        if start + 8 > stop or len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        skip = 8
        if size == 1:
            size, skip = struct.unpack(">Q", head[8:])[0], 16
        size = stop - start if size == 0 else size
        if size < skip:
            return
        yield kind, start + skip, min(start + size, stop) if inside else start + size
        start += size


def box_inside(fd: int, box: Box | None, *path: bytes) -> Box | None:
    """Follow a path of box types below ``box``."""
    for kind in path:
        if box is None:
            return None
        box = next((child for child in boxes(fd, box[1], box[2]) if child[0] == kind), None)
    return box


def _body(fd: int, box: Box | None) -> bytes:
    return b"" if box is None else os.pread(fd, min(box[2] - box[1], BOX_BYTES), box[1])


def _read_iso(fd: int, size: int, track: int) -> Header:
    top = list(boxes(fd, 0, size, inside=False))
    movie = next((box for box in top if box[0] == b"moov"), None)
    cut_short = bool(top) and top[-1][2] > size and top[-1][0] in ISO_TOP  # else something appended, such as a tag
    if movie is None or movie[2] > size:
        return Header(kind="iso", cut_short=cut_short, has_index=False)
    tracks = [box for box in boxes(fd, movie[1], movie[2]) if box[0] == b"trak"]
    videos = [box for box in tracks if _body(fd, box_inside(fd, box, b"mdia", b"hdlr"))[8:12] == b"vide"]
    if not videos:
        return Header(kind="iso", cut_short=cut_short, has_video=False if tracks else None)
    fragmented = box_inside(fd, movie, b"mvex") is not None or any(box[0] == b"moof" for box in top)
    headers = [replace(_read_track(fd, movie, box, cut_short), fragmented=fragmented) for box in videos]
    return max(headers, key=lambda header: (header.track == track, header.samples))


def _read_track(fd: int, movie: Box, track: Box, cut_short: bool) -> Header:
    rate, _ = _duration(_body(fd, box_inside(fd, movie, b"mvhd")))
    media_rate, media_length = _duration(_body(fd, box_inside(fd, track, b"mdia", b"mdhd")))
    seconds = media_length / media_rate if media_length and media_rate else None
    shown, uneven = read_edits(_body(fd, box_inside(fd, track, b"edts", b"elst")))
    if shown and all(shown) and rate:
        whole = sum(shown) / rate  # an edit may claim more than there is; several may show a part twice
        seconds = min(whole, seconds) if seconds and len(shown) == 1 else whole
    table = box_inside(fd, track, b"mdia", b"minf", b"stbl")
    description = _body(fd, box_inside(fd, table, b"stsd"))
    entry = description[8:]
    width, height = struct.unpack(">HH", entry[32:36]) if len(entry) >= 36 else (0, 0)
    sizes = _body(fd, box_inside(fd, table, b"stsz"))
    samples = struct.unpack(">I", sizes[8:12])[0] if len(sizes) >= 12 else 0
    codec = entry[4:8].decode("ascii", "replace").strip()
    head = _body(fd, box_inside(fd, track, b"tkhd"))
    rotation, mirrored = _turn(head, _body(fd, box_inside(fd, movie, b"mvhd")))
    return Header(
        "iso", cut_short, has_video=True, seconds=seconds, edits=len(shown), uneven=uneven, samples=samples,
        descriptions=int.from_bytes(description[4:8], "big") or 1, width=width, height=height, codec=codec,
        rotation=rotation, mirrored=mirrored, track=track_number(head),
    )  # fmt: skip


def track_number(head: bytes) -> int:
    """The number of a track, from the body of its ``tkhd`` box."""
    start = 20 if head[:1] == b"\x01" else 12
    return int.from_bytes(head[start : start + 4], "big")


def _turn(track: bytes, movie: bytes) -> tuple[int, bool]:
    """Rotation and mirroring by the matrices in the headers of a track and of the movie, one after the other."""
    inner, outer = _matrix(track, 40, 52), _matrix(movie, 36, 48)
    if not inner or not outer:
        return 0, False
    (a, b, c, d), (e, f, g, h) = inner, outer
    return turn_of([a * e + b * g, a * f + b * h, 0, c * e + d * g, c * f + d * h])


def _matrix(body: bytes, start: int, long_start: int) -> tuple[int, ...]:
    """The four numbers of a matrix that turn and mirror; empty when it is not there."""
    start = long_start if body[:1] == b"\x01" else start
    if len(body) < start + 36:
        return ()
    a, b, _, c, d = struct.unpack_from(">5i", body, start)
    return a, b, c, d


def turn_of(matrix: Sequence[int]) -> tuple[int, bool]:
    """Clockwise degrees, and whether left and right are swapped after that, of a display matrix (ISO 14496-12, 6.2.2).

    Args:
        matrix: at least its first five numbers, in the order of the file.

    Returns:
        0 degrees and not mirrored for whatever is not made of quarter turns and mirrors: players do not agree there.
    """
    a, b, _, c, d = matrix[:5]
    small = max(map(abs, (a, b, c, d))) // 64
    signs = [(value > small) - (value < -small) for value in (a, b, c, d)]
    return TURNS.get((signs[0], signs[1], signs[2], signs[3]), (0, False))


def _duration(body: bytes) -> tuple[int, int]:
    """Ticks per second and length in ticks, from a movie or media header; zeros when absent."""
    if not body:
        return 0, 0
    rate, length = struct.unpack(">IQ", body[20:32]) if body[0] else struct.unpack(">II", body[12:20])
    return rate, 0 if length in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else length


def read_edits(body: bytes) -> tuple[list[int], str]:
    """Lengths of the edits that show media, in ticks of the movie, and what makes their times uncertain."""
    if not body:
        return [], ""
    form = ">Qqi" if body[0] else ">Iii"
    step = struct.calcsize(form)
    count = min(struct.unpack(">I", body[4:8])[0], (len(body) - 8) // step)
    entries = [struct.unpack_from(form, body, 8 + step * number) for number in range(count)]
    shown = [length for length, media_time, _ in entries if media_time >= 0]
    after_first = itertools.dropwhile(lambda entry: entry[1] < 0, entries)
    if any(media_time < 0 for _, media_time, _ in after_first):
        return shown, "its edit list shows nothing for a while after the first picture"
    if any(rate != ONE for _, media_time, rate in entries if media_time >= 0):
        return shown, "its edit list asks for another speed, which decoders do not follow"
    return shown, ""
