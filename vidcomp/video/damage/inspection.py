# SPDX-License-Identifier: Apache-2.0
"""Inspection of a file of which no decoder complained.

- The structure of its container (``structure.py``), as far as that takes no time.
- HEVC and VP8: stricter decoders decode the same packets again (``decoders.py``).
- Pictures that were skipped or jumped over: a small file is decoded whole.

The last two cost as much as they look at. Unless they are asked for, they are done only where that is little, and they
go on while the frames are used already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from vidcomp.video.container.libav import demux, reason_of
from vidcomp.video.container.packets import start_video
from vidcomp.video.container.plan import decoded_frames, segments
from vidcomp.video.damage.decoders import hevc_complaint, vp8_complaint
from vidcomp.video.damage.structure import SMALL_BYTES, broken_structure
from vidcomp.video.readers.base import Source
from vidcomp.video.readers.complaints import log_end, printed_damage
from vidcomp.video.readers.pyav import SKIPS, PyAvReader

__all__ = ["Decoded", "Look", "inspect"]

CHEAP_PIXELS = 100_000_000  # of HEVC or VP8: half a second at most
WHOLE_PIXELS = 25_000_000  # of a video that is decoded whole: some 50 milliseconds
MOST_PIXELS = 4096 * 2304  # of a picture: the second decoder may hold seventeen

Look = Callable[[], str]  # what is wrong, in words; empty when nothing is


@dataclass(frozen=True)
class Decoded:
    """The decoded part of a file.

    Attributes:
        wanted: indices of the frames.
        frames: presentable frames of the file.
        reader: the name of the one that decoded them.
        ranged: only a part of the video was asked for; then nothing is said of the other parts.
    """

    wanted: Sequence[int]
    frames: int
    reader: str = ""
    ranged: bool = False


class _Run(NamedTuple):
    """Packets to look at."""

    begin: int | None  # presentation time of the key frame to jump to; None for the start of the file
    until: frozenset[int]  # presentation times after which it is enough; none for all packets


class _Decoder(NamedTuple):
    complaint: Callable[[Iterable[bytes]], str]
    packing: str  # name of the filter that writes packets as it wants them


DECODERS = {"hevc": _Decoder(hevc_complaint, "hevc_mp4toannexb"), "vp8": _Decoder(vp8_complaint, "null")}
ALL = _Run(None, frozenset())


def inspect(source: Source, decoded: Decoded | None = None, thorough: bool = False) -> tuple[str, Look | None]:
    """Inspect a file for damage that decoders do not report.

    Args:
        source: the file.
        decoded: what was decoded of it; None looks at the container only.
        thorough: look whatever it costs.

    Returns:
        What is wrong, in words, as far as that takes no time, empty when nothing is; and a function for what takes
        longer, None when nothing more is worth it. What decoders print while it runs counts as well.
    """
    if (flaw := broken_structure(source)) or decoded is None:
        return flaw, None
    looks: list[Look] = []
    if thorough and os.stat(source.path).st_size > SMALL_BYTES:
        looks.append(partial(broken_structure, source, thorough))
    facts = source.facts
    size = facts.width * facts.height
    whole = not decoded.ranged and decoded.frames * size <= WHOLE_PIXELS
    decoder = DECODERS.get(facts.codec) if size <= MOST_PIXELS else None
    skipping = decoded.reader == "pyav" and source.sound
    if decoder or (whole and skipping):
        runs, count = _runs(source, decoded)
        if whole and skipping and (count < decoded.frames or facts.codec in SKIPS):
            looks.append(partial(_missing_pictures, source, decoded.frames))
        if decoder and (thorough or whole or count * size <= CHEAP_PIXELS):
            looks.append(partial(_undecodable, source.path, decoder, [ALL] if whole else runs))
    return "", (lambda: next(filter(None, (look() for look in looks)), "")) if looks else None


def _runs(source: Source, decoded: Decoded) -> tuple[list[_Run], int]:
    """Return the packets that the wanted frames are made from, and their number; all packets when not known."""
    scan = source.scan
    if not source.sound or scan is None or len(scan) != decoded.frames:
        return [ALL], decoded.frames
    plan = segments(scan, decoded.wanted, scan.keys if source.jumps else None)
    ticks = scan.timeline.ticks
    runs = [
        _Run(int(ticks[part.key]) if part.key else None, frozenset(ticks[list(part.wanted)].tolist())) for part in plan
    ]
    return runs, decoded_frames(scan, plan)


def _missing_pictures(source: Source, frames: int) -> str:
    """Return what PyAV reports of all packets: the same in every run, so with one thread where anything is wrong."""
    if not _reported_of_all(source, frames, PyAvReader.threads):
        return ""
    return _reported_of_all(source, frames, 1)


def _reported_of_all(source: Source, frames: int, threads: int) -> str:
    began = log_end()
    with PyAvReader() as reader:
        reader.threads = threads
        reader.open(source.unopened())
        found = len(reader.count())
        if found < frames:
            return f"{frames - found} of {frames} pictures do not decode"
        return printed_damage(began) or reader.complaint


def _undecodable(path: str, decoder: _Decoder, runs: Sequence[_Run]) -> str:
    """Return what a stricter decoder reports of the packets of each run."""
    import av

    container, stream = start_video(path, 1)
    with container:
        for run in runs:
            try:
                if complaint := decoder.complaint(_packets(container, stream, decoder.packing, run)):
                    return complaint
            except (av.error.FFmpegError, ValueError) as error:
                return f"its packets cannot be taken apart ({reason_of(error)})"
    return ""


def _packets(container: Any, stream: Any, packing: str, run: _Run) -> Iterator[bytes]:
    """Yield the packets of a run, each with what a decoder needs to begin with it."""
    import av

    if run.begin is not None:
        container.seek(run.begin, stream=stream, backward=True)
    packed = av.BitStreamFilterContext(packing, stream)
    unsent = set(run.until)
    for packet in demux(container, stream):
        unsent.discard(packet.pts)  # before the filter takes it
        yield from map(bytes, packed.filter(packet if packet.size else None))
        if run.until and not unsent:
            return
