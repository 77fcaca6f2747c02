# SPDX-License-Identifier: Apache-2.0
"""Jobs as a worker does them: try the readers, choose frames, decode them into the memory file.

A plan may be sent twice: when a frame that the packets promise does not decode, frames are counted by decoding and
everything starts anew.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.packets import list_packets
from vidcomp.video.container.plan import cheaper_frames
from vidcomp.video.container.scan import Timeline
from vidcomp.video.damage import Decoded, Look, inspect
from vidcomp.video.process.messages import (
    Delivered,
    Failed,
    Inspected,
    Listed,
    Message,
    Opened,
    Planned,
    Progress,
    Refused,
    Request,
    ScanFacts,
)
from vidcomp.video.process.worker import limit_heap, trim_heap
from vidcomp.video.readers.base import Facts, Packets, ReaderError, Source, Uncounted, VideoReader, create_reader
from vidcomp.video.readers.complaints import damage_of, log_end, printed_damage
from vidcomp.video.readers.conform import squared
from vidcomp.video.sampling import Sampling, choose_frames, choose_in_spans, window
from vidcomp.video.scenes import THUMB_SIDE, find_cuts, thumbnail

__all__ = ["Memory", "serve"]

MAX_OUTPUT_BYTES = 8 << 30
LONG_SECONDS = 60.0
PROGRESS_SECONDS = 0.01  # between two messages about frames: every message wakes the client
LEVEL_PIXELS = 8192 * 4352  # of a picture, at most, in the levels of today's codecs
HUGE_HEAP_BYTES = 896 << 20  # for larger ones, which few files but hostile ones have
MANY_FRAMES = 50_000  # what listing and choosing among so many took is given back before pictures take their memory
LEAST_SIDE = 448  # no frame is shrunk below this to save memory: what the towers of today's models read

Send = Callable[[Message], None]


class Memory:
    """The memory file. It is written to, not mapped, so that it counts only once as memory."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def reserve(self, total: int) -> None:
        """Make room. Nothing is cut off: the client may still look at what an earlier plan put there."""
        if os.fstat(self.descriptor).st_size < total:
            os.ftruncate(self.descriptor, total)

    def write(self, start: int, array: NDArray[Any]) -> None:
        """Write an array at a position in bytes."""
        data = memoryview(np.ascontiguousarray(array).data).cast("B")
        while data:
            written = os.pwrite(self.descriptor, data, start)
            data, start = data[written:], start + written


def serve(request: Request, memory: Memory, send: Send) -> Message:
    """Do a job, whatever happens, and return its last message. Its files are closed by then."""
    try:
        if not request.readers:
            return _list(request, memory, send)
        delivered, inspection = _Decoding(request, memory, send).run()
        if inspection is None:
            return delivered
        send(delivered)
        return Inspected(inspection() or printed_damage())
    except ReaderError as error:
        return Failed(error.why, error.code)
    except MemoryError:
        return Failed("out of memory", "too_large", broken=True)
    except Exception as error:  # the border of the process: native libraries raise anything
        large = isinstance(error, OSError) and error.errno == errno.EFBIG  # for the limit of ulimit -f
        why = f"{type(error).__name__}: {error}"[:500]
        return Failed(why, "too_large" if large else "failed", broken=True)


_last_list: dict[tuple[int, ...], Packets] = {}  # of one file: a film is read window by window, and listed once


def _packets(request: Request) -> Packets:
    """List the packets, unless the last list was of the same file."""
    facts = os.stat(request.path)
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if (known := _last_list.get(key)) is not None:
        return known
    packets = list_packets(request.path, request.header)
    _last_list.clear()
    _last_list[key] = replace(packets, opened=None)
    return packets


def _listed(request: Request) -> Packets:
    """List the packets. A file whose packets cannot be listed is left to readers that count by decoding."""
    try:
        packets = _packets(request)
        if packets.facts.width * packets.facts.height > LEVEL_PIXELS:
            limit_heap(HUGE_HEAP_BYTES)
        return packets
    except (ImportError, ReaderError) as error:
        if isinstance(error, ReaderError) and error.code == "too_large":
            raise
        return Packets()


def _list(request: Request, memory: Memory, send: Send) -> Listed:
    """Do a job without a reader."""
    packets = _packets(request)
    packets.close()
    flaw, _ = inspect(Source(request.path, request.header, lambda: packets))
    scan = packets.scan
    if scan is None:
        return Listed(packets.facts, None, flaw)
    keys = np.flatnonzero(scan.keys)
    numbers = np.concatenate([scan.timeline.ticks, keys])
    memory.reserve(numbers.nbytes)
    memory.write(0, numbers)
    facts = ScanFacts(
        len(scan), len(keys), scan.timeline.base, scan.timeline.seconds, scan.hidden, scan.exact, scan.variable_rate,
        scan.complaint, scan.notes,
    )  # fmt: skip
    return Listed(packets.facts, facts, flaw)


class _Decoding:
    """A job with readers."""

    def __init__(self, request: Request, memory: Memory, send: Send) -> None:
        self.request, self.memory, self.send = request, memory, send

    def run(self) -> tuple[Delivered, Look | None]:
        """Decode with the first reader that does not refuse; return an inspection too, if one is worth it."""
        request = self.request
        listed = cache(lambda: _listed(request))
        for name in request.readers:
            # A reader of another package knows its own files.
            source = Source(request.path, request.header, Packets if ":" in name else listed)
            try:
                return self._attempt(name, source)
            except ReaderError as error:
                if error.code != "refused" or name == request.readers[-1]:
                    raise
                self.send(Refused(error.why))
        raise ReaderError("no reader was named")

    def _attempt(self, name: str, source: Source, alone: bool = False) -> tuple[Delivered, Look | None]:
        """Deliver the frames with one reader, by one thread if that is to be or the data may be damaged."""
        request, began = self.request, log_end()
        with create_reader(name) as reader:
            if alone or source.doubtful or source.silent:
                reader.threads = 1
            timeline, chosen = self._deliver(source, reader)
            scan, complaint = source.scan, damage_of(reader, began)
            damage = (scan.complaint if scan else "") or complaint
            ranged = request.sampling.start > 0 or request.sampling.end is not None
            decoded = Decoded(chosen, len(timeline), reader.name, ranged)
            flaw, look = ("", None) if damage else inspect(source, decoded, request.thorough)
            delivered = Delivered(
                source.facts, len(timeline), timeline.seconds, timeline.start, reader.claimed_seconds, reader.size,
                damage, flaw, (*(scan.notes if scan else ()), *reader.notes), inspecting=look is not None,
            )  # fmt: skip
        source.packets.close()
        if (damage or flaw) and reader.threads > 1:  # what several threads make of damaged data differs between runs
            return self._attempt(name, source.unopened(), alone=True)
        return delivered, look

    def _deliver(self, source: Source, reader: VideoReader) -> tuple[Timeline, list[int]]:
        """Write the chosen frames; return when every frame is shown, and which were chosen."""
        reader.open(source)
        if (reader.claimed_seconds or 0) > LONG_SECONDS:
            self.send(Opened(reader.claimed_seconds or 0))
        timeline = reader.timeline()
        try:
            return timeline, self._fill(source, reader, timeline)
        except Uncounted:
            timeline = reader.count()
            return timeline, self._fill(source, reader, timeline)

    def _fill(self, source: Source, reader: VideoReader, timeline: Timeline) -> list[int]:
        """Choose frames, decode them, and write them into the memory file, one at a time. Return their indices."""
        request = self.request
        chosen = _choose(request.sampling, source, reader, timeline)
        if not len(chosen):
            why = f"nothing is shown from {request.sampling.start:g} s on: it lasts {timeline.seconds:.1f} s"
            raise ReaderError(why, "empty_range")
        if len(timeline) > MANY_FRAMES:
            trim_heap()
        shape: tuple[int, ...] | None = None
        delivered, last = 0, -PROGRESS_SECONDS
        for image in reader.read(chosen.tolist(), _side(request, source.facts, len(chosen))):
            if shape is None:
                shape = image.shape
                self._plan(shape, chosen, timeline)
            if image.shape != shape:
                raise ReaderError(f"the picture size changes from {shape[:2]} to {image.shape[:2]} (h, w)")
            self.memory.write(delivered * image.nbytes, image)
            delivered += 1
            if request.follow and time.monotonic() - last > PROGRESS_SECONDS:
                self.send(Progress(delivered))
                last = time.monotonic()
        if delivered != len(chosen):
            raise ReaderError(f"delivered {delivered} of {len(chosen)} frames")
        self.send(Progress(delivered))
        indices: list[int] = chosen.tolist()
        return indices

    def _plan(self, shape: tuple[int, ...], chosen: NDArray[np.int64], timeline: Timeline) -> None:
        """Make room for the frames and say which ones follow."""
        total = len(chosen) * int(np.prod(shape))
        if total > MAX_OUTPUT_BYTES:
            size = f"{shape[1]} x {shape[0]}"
            raise ReaderError(f"{len(chosen)} frames of {size} need {total / 2**30:.0f} GiB", "too_large")
        self.memory.reserve(total)
        ticks = tuple((timeline.ticks[chosen] - timeline.ticks[0]).tolist())
        self.send(Planned((len(chosen), *shape), tuple(chosen.tolist()), ticks, timeline.base, timeline.seconds))


def _side(request: Request, facts: Facts, frames: int) -> int | None:
    """Longest side of the frames: as asked for, or less where they would not fit into ``max_bytes``."""
    size = squared((facts.width, facts.height), facts.form.pixel)
    total = 3 * size[0] * size[1] * frames
    if total <= request.max_bytes:
        return request.max_side
    side = max(LEAST_SIDE, int(max(size) * (request.max_bytes / total) ** 0.5))
    return side if request.max_side is None else min(side, request.max_side)


def _choose(sampling: Sampling, source: Source, reader: VideoReader, timeline: Timeline) -> NDArray[np.int64]:
    scan = source.scan
    if sampling.rule == "scene":
        return _choose_by_scenes(sampling, type(reader)(), source, timeline)
    if scan is None or len(scan) != len(timeline) or scan.timeline.base != timeline.base:
        return choose_frames(timeline.times, sampling, None, timeline.seconds)
    chosen = choose_frames(timeline.times, sampling, np.flatnonzero(scan.keys), timeline.seconds)
    if sampling.seek != "fast":
        return chosen
    return cheaper_frames(scan, chosen, window(timeline.times, sampling, timeline.seconds), sampling.fps)


def _choose_by_scenes(sampling: Sampling, reader: VideoReader, source: Source, timeline: Timeline) -> NDArray[np.int64]:
    """Decode everything between start and end once, small, with another ``reader``, to find the cuts."""
    first, stop = window(timeline.times, sampling, timeline.seconds)
    if first >= stop:
        return np.empty(0, np.int64)
    with reader:
        reader.open(source.unopened())
        if len(reader.timeline()) != len(timeline):
            reader.count()
        bounds = find_cuts(map(thumbnail, reader.read(range(first, stop), THUMB_SIDE)))
    return choose_in_spans(bounds, sampling.bound) + first
