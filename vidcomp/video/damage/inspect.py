# SPDX-License-Identifier: Apache-2.0
"""A second look at a file of which no decoder complained, for damage that decoders take without a word.

- HEVC and VP8: FFmpeg makes wrong pictures of damaged data. libde265 and libvpx decode the same packets again and
  notice (``hevc.py``, ``vp8.py``).
- Matroska: demuxers do not compare the checksums that most files carry (``matroska.py``).
- AVI: a header that contradicts itself is read anyhow (``riff.py``).
- Transport streams and Flash video: demuxers step over what does not fit (``mpegts.py``, ``flv.py``).
- Pictures that were skipped or jumped over: a small file is decoded whole.

Most cost as much as they look at. Unless they are asked for, they are done only where that is little. The first and the
last go on while the frames are used already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from vidcomp.video.container.libav import demux, reason_of
from vidcomp.video.container.matroska import broken_checksum
from vidcomp.video.container.packets import start_video
from vidcomp.video.container.plan import decoded_frames, segments
from vidcomp.video.container.riff import contradiction
from vidcomp.video.damage.complaints import log_end, printed_damage
from vidcomp.video.damage.flv import broken_chain
from vidcomp.video.damage.hevc import hevc_complaint
from vidcomp.video.damage.mpegts import broken_packets
from vidcomp.video.damage.vp8 import vp8_complaint
from vidcomp.video.readers.base import Source
from vidcomp.video.readers.pyav import SKIPS, PyAvReader

__all__ = ["Look", "quick_look", "second_look"]

CHEAP_PIXELS = 100_000_000  # of HEVC or VP8: half a second at most
SMALL_BYTES = 4 << 20  # of a file that is read whole: a few milliseconds
WHOLE_PIXELS = 25_000_000  # of a video that is decoded whole: some 50 milliseconds
MOST_PIXELS = 4096 * 2304  # of a picture: the second decoder may hold seventeen

Look = Callable[[], str]  # what is wrong, in words; empty when nothing is


class _Run(NamedTuple):
    """Packets to look at."""

    begin: int | None  # presentation time of the key frame to jump to; None for the start of the file
    until: frozenset[int]  # presentation times after which it is enough; none for all packets


ALL = _Run(None, frozenset())


class _Decoder(NamedTuple):
    """A stricter one than FFmpeg's."""

    complaint: Callable[[Iterable[bytes]], str]
    packing: str  # name of the filter that writes packets as it wants them


DECODERS = {"hevc": _Decoder(hevc_complaint, "hevc_mp4toannexb"), "vp8": _Decoder(vp8_complaint, "null")}


def quick_look(source: Source) -> str:
    """What is wrong with the file, in words, as far as it takes no time to tell; empty when nothing is."""
    return contradiction(source.path) if source.facts.container == "avi" else _structure(source, SMALL_BYTES)


def second_look(
    source: Source,
    wanted: Sequence[int],
    frames: int,
    *,
    reader: str = "",
    ranged: bool = False,
    thorough: bool = False,
) -> Look | None:
    """What is worth looking at now that these frames were decoded; None when nothing is.

    Args:
        wanted: indices of the frames.
        frames: how many there are.
        reader: the name of the one that decoded them.
        ranged: only a part of the video was asked for; then nothing is said of the other parts.
        thorough: look whatever it costs.

    Returns:
        A function, to be called when the frames are on their way. What decoders print meanwhile counts as well.
    """
    looks: list[Look] = []
    facts = source.facts
    size = facts.width * facts.height
    if thorough and not _is_small(source):
        looks.append(partial(_structure, source, os.stat(source.path).st_size))
    whole = not ranged and frames * size <= WHOLE_PIXELS
    decoder = DECODERS.get(facts.codec) if size <= MOST_PIXELS else None
    skipping = reader == "pyav" and source.sound
    if decoder or (whole and skipping):
        runs, decoded = _runs(source, wanted, frames)
        if whole and skipping and (decoded < frames or facts.codec in SKIPS):
            looks.append(partial(_missing_pictures, source, frames))
        if decoder and (thorough or whole or decoded * size <= CHEAP_PIXELS):
            looks.append(partial(_undecodable, source.path, decoder, [ALL] if whole else runs))
    return (lambda: next(filter(None, (look() for look in looks)), "")) if looks else None


def _structure(source: Source, most_bytes: int) -> str:
    """What is wrong with a container that has to be read for it: a stream up to here, others if they are no larger."""
    container = source.facts.container
    if container == "mpegts":
        return broken_packets(source.path, most_bytes)
    if os.stat(source.path).st_size > most_bytes:
        return ""
    if container == "flv":
        return broken_chain(source.path)
    return broken_checksum(source.path) if source.header.kind == "matroska" else ""


def _is_small(source: Source) -> bool:
    return os.stat(source.path).st_size <= SMALL_BYTES


def _runs(source: Source, wanted: Sequence[int], frames: int) -> tuple[list[_Run], int]:
    """The packets that the wanted frames are made from, and how many these are; all packets when that is not known."""
    scan = source.scan
    if not source.sound or scan is None or len(scan) != frames:
        return [ALL], frames
    plan = segments(scan, wanted, scan.keys if source.jumps else None)
    ticks = scan.timeline.ticks
    runs = [
        _Run(int(ticks[part.key]) if part.key else None, frozenset(ticks[list(part.wanted)].tolist())) for part in plan
    ]
    return runs, decoded_frames(scan, plan)


def _missing_pictures(source: Source, frames: int) -> str:
    """What PyAV says when it decodes all packets: the same in every run, so with one thread where anything is wrong."""
    began = log_end()
    if not _said_of_all(source, frames, PyAvReader.threads, began):
        return ""
    return _said_of_all(source, frames, 1, log_end())


def _said_of_all(source: Source, frames: int, threads: int, began: int) -> str:
    with PyAvReader() as reader:
        reader.threads = threads
        reader.open(source.unopened())
        found = len(reader.count())
        if found < frames:
            return f"{frames - found} of {frames} pictures do not decode"
        return printed_damage(began) or reader.complaint


def _undecodable(path: str, decoder: _Decoder, runs: Sequence[_Run]) -> str:
    """What a stricter decoder says of the packets of each run."""
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
    """The packets of a run, each with what a decoder needs to begin with it."""
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
