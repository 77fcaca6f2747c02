# SPDX-License-Identifier: Apache-2.0
"""The decoding child: one reader, one file, one answer. Forked by the nursery for every job.

It owns three descriptors: the video, an anonymous memory file for the pixels, and a pipe for messages (one JSON object
per line). Standard output and error are a file that collects the noise of native libraries. Messages:

    opened   {"seconds"}                                    the length of a long one, for the deadline
    planned  {"shape", "indices", "ticks", "base", ...}     the first picture is there, and how many will follow
    frames   {"ready"}                                      so many pictures are in the memory file
    listed   {"frames", "keys"}                             their times and the key frames are in the memory file
    refused  {"why"}                                        the next reader goes on
    done     {"facts"}, or failed {"why", "code"}           its files are closed only then: nobody need wait for it
    checked  {"damage"}                                     a second look, if the facts announced one

``planned`` may come twice: when a frame that the packets promise does not decode, frames are counted by decoding and
everything starts anew. A job without a reader only looks at the packets: ``listed``, if they tell, and ``done``.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import Header
from vidcomp.video.container.packets import list_packets
from vidcomp.video.container.plan import cheaper_frames
from vidcomp.video.container.scan import Scan, Timeline
from vidcomp.video.damage.complaints import damage_of, log_end, printed_damage
from vidcomp.video.damage.inspect import Look, quick_look, second_look
from vidcomp.video.process.server import limit_heap, trim_heap
from vidcomp.video.readers.base import Facts, Packets, ReaderError, Source, Uncounted, VideoReader, create_reader
from vidcomp.video.readers.conform import squared
from vidcomp.video.sampling import Sampling, choose_frames, choose_in_spans, window
from vidcomp.video.scenes import THUMB_SIDE, find_cuts, thumbnail

__all__ = ["Request", "serve"]

MAX_OUTPUT_BYTES = 8 << 30
LONG_SECONDS = 60.0
TELL_SECONDS = 0.01  # between two messages about frames: every message wakes the parent
LEVEL_PIXELS = 8192 * 4352  # of a picture, at most, in the levels of today's codecs
HUGE_HEAP_BYTES = 896 << 20  # for larger ones, which few files but hostile ones have
MANY_FRAMES = 50_000  # what listing and choosing among so many took is given back before pictures take their memory
LEAST_SIDE = 448  # no frame is shrunk below this to save memory: what the towers of today's models read


@dataclass(frozen=True)
class Request:
    """What the parent asks for. Readers are tried in their order; there are none for a look at the packets.

    ``thorough`` asks for a second look at the file whatever it costs (``integrity.py``); ``follow`` wants to be told of
    frames while the next ones are decoded.
    """

    readers: tuple[str, ...]
    path: str
    header: Header
    sampling: Sampling
    max_side: int | None
    max_bytes: int
    thorough: bool = False
    follow: bool = False

    def to_json(self) -> bytes:
        """One line."""
        fields = {**self.__dict__, "header": asdict(self.header), "sampling": self.sampling.to_dict()}
        return json.dumps(fields).encode() + b"\n"

    def at(self, path: str) -> Request:
        """The same about another name of the file."""
        return replace(self, path=path)

    @staticmethod
    def parse(line: bytes) -> Request:
        """What :meth:`to_json` wrote."""
        fields: dict[str, Any] = json.loads(line)
        fields["header"] = Header(**fields["header"])
        fields["sampling"] = Sampling.from_dict(fields["sampling"])
        return Request(**{**fields, "readers": tuple(fields["readers"])})


class Answer:
    """The message pipe and the memory file, as the child writes them."""

    def __init__(self, pipe: int, arena: int) -> None:
        self.pipe, self.arena = pipe, arena

    def send(self, event: str, **fields: Any) -> None:
        """Write one message."""
        os.write(self.pipe, json.dumps({"event": event, **fields}).encode() + b"\n")

    def reserve(self, total: int) -> None:
        """Make room. Nothing is cut off: the parent may still look at what an earlier plan put there."""
        if os.fstat(self.arena).st_size < total:
            os.ftruncate(self.arena, total)

    def write(self, start: int, array: NDArray[Any]) -> None:
        """Write to the memory file, not to a mapping of it, so that it counts only once as memory."""
        data = memoryview(np.ascontiguousarray(array).data).cast("B")
        while data:
            written = os.pwrite(self.arena, data, start)
            data, start = data[written:], start + written


def serve(request: Request, answer: Answer, free: Callable[[], bool]) -> bool:
    """Do the job and send its last message, whatever happens.

    Args:
        free: called when all went well, right before the last message.

    Returns:
        What ``free`` said; False when the process should do no other job.
    """
    again = False
    with ExitStack() as files:
        try:
            facts, check = _read(request, answer, files) if request.readers else (_look(request, answer), None)
            if check is None:
                again = not (facts.get("damage") or facts.get("flaw")) and free()
            answer.send("done", facts=facts)
            if check is not None:
                files.close()
                damage = check() or printed_damage()
                again = not damage and free()
                answer.send("checked", damage=damage)
        except ReaderError as error:
            answer.send("failed", why=error.why, code=error.code)
        except MemoryError:
            answer.send("failed", why="out of memory", code="too_large")
        except Exception as error:  # the border of the process: whatever a native library raised is told to the parent
            large = isinstance(error, OSError) and error.errno == errno.EFBIG  # for the limit of ulimit -f
            why = f"{type(error).__name__}: {error}"[:500]
            answer.send("failed", why=why, code="too_large" if large else "failed")
    return again


def _read(request: Request, answer: Answer, files: ExitStack) -> tuple[dict[str, Any], Look | None]:
    """Decode with the first reader that does not refuse: the facts, and a second look that is worth it.

    What it leaves open is added to ``files``.
    """
    listed = cache(lambda: _listed(request))
    for name in request.readers:
        # A reader of another package knows its own files.
        source = Source(request.path, request.header, Packets if ":" in name else listed)
        try:
            return _decode(request, name, source, answer, files)
        except ReaderError as error:
            if error.code != "refused" or name == request.readers[-1]:
                raise
            answer.send("refused", why=error.why)
    raise ReaderError("no reader was named")


def _listed(request: Request) -> Packets:
    """A file whose packets cannot be listed is left to readers that count by decoding."""
    try:
        packets = list_packets(request.path, request.header)
        if packets.facts.width * packets.facts.height > LEVEL_PIXELS:
            limit_heap(HUGE_HEAP_BYTES)
        return packets
    except (ImportError, ReaderError) as error:
        if isinstance(error, ReaderError) and error.code == "too_large":
            raise
        return Packets()


def _look(request: Request, answer: Answer) -> dict[str, Any]:
    """The facts of a job without a reader."""
    packets = list_packets(request.path, request.header)
    packets.close()
    facts, scan = asdict(packets.facts), packets.scan
    flaw = quick_look(Source(request.path, request.header, lambda: packets))
    if scan is None:
        return {**facts, "exact": False, "complaint": flaw}
    keys = np.flatnonzero(scan.keys)
    numbers = np.concatenate([scan.timeline.ticks, keys])
    answer.reserve(numbers.nbytes)
    answer.write(0, numbers)
    answer.send("listed", frames=len(scan), keys=len(keys))
    return {
        **facts,
        "base": _fraction(scan.timeline.base),
        "length": scan.timeline.seconds,
        "hidden": scan.hidden,
        "exact": scan.exact,
        "variable_rate": scan.variable_rate,
        "complaint": scan.complaint or flaw,
        "notes": scan.notes,
    }


def _fraction(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _decode(
    request: Request, name: str, source: Source, answer: Answer, files: ExitStack
) -> tuple[dict[str, Any], Look | None]:
    with ExitStack() as opened:
        reader = opened.enter_context(create_reader(name))
        told, check = _attempt(request, source, reader, answer)
        if (told["damage"] or told["flaw"]) and reader.threads > 1:
            # What several threads make of damaged data differs from run to run.
            opened.pop_all().close()
            reader, source = opened.enter_context(create_reader(name)), source.unopened()
            reader.threads = 1
            told, check = _attempt(request, source, reader, answer)
        files.callback(source.packets.close)
        files.push(opened.pop_all())
    return {**told, "checking": check is not None}, check


def _attempt(
    request: Request, source: Source, reader: VideoReader, answer: Answer
) -> tuple[dict[str, Any], Look | None]:
    """Deliver the frames once: the facts, and a second look that is worth it."""
    began = log_end()
    timeline, chosen = _deliver(request, source, reader, answer)
    facts, scan, damage = source.packets.facts, source.scan, damage_of(reader, began)
    told: dict[str, Any] = {
        "frames_total": len(timeline),
        "seconds": timeline.seconds,
        "start": _fraction(timeline.start),
        "claimed": reader.claimed_seconds,
        "size": reader.size,
        "damage": (scan.complaint if scan else "") or damage,
        "flaw": "",
        "container": facts.container,
        "codec": facts.codec,
        "track": facts.track,
        "notes": [*(scan.notes if scan else ()), *reader.notes],
    }
    if told["damage"]:
        return told, None
    told["flaw"] = quick_look(source)
    if told["flaw"]:
        return told, None
    part = request.sampling.start > 0 or request.sampling.end is not None
    return told, second_look(source, chosen, len(timeline), reader=reader.name, ranged=part, thorough=request.thorough)


def _deliver(request: Request, source: Source, reader: VideoReader, answer: Answer) -> tuple[Timeline, list[int]]:
    """Write the chosen frames into the memory file: when every frame is shown, and which were chosen."""
    if source.doubtful or source.silent:
        reader.threads = 1
    reader.open(source)
    if (reader.claimed_seconds or 0) > LONG_SECONDS:
        answer.send("opened", seconds=reader.claimed_seconds)
    timeline = reader.timeline()
    try:
        return timeline, _fill(request, source, reader, timeline, answer)
    except Uncounted:
        timeline = reader.count()
        return timeline, _fill(request, source, reader, timeline, answer)


def _fill(request: Request, source: Source, reader: VideoReader, timeline: Timeline, answer: Answer) -> list[int]:
    """Choose frames, decode them, and write them into the memory file, one at a time. Gives their indices."""
    if request.sampling.rule == "scene":
        chosen = _choose_by_scenes(request.sampling, type(reader)(), source, timeline)
    else:
        chosen = _choose(request.sampling, source.scan, timeline)
    if not len(chosen):
        why = f"nothing is shown from {request.sampling.start:g} s on: it lasts {timeline.seconds:.1f} s"
        raise ReaderError(why, "empty_range")
    if len(timeline) > MANY_FRAMES:
        trim_heap()
    images = reader.read(chosen.tolist(), _side(request, source.facts, len(chosen)))
    shape: tuple[int, ...] | None = None
    delivered, told = 0, -TELL_SECONDS
    for image in images:
        if shape is None:
            shape = image.shape
            total = len(chosen) * image.nbytes
            if total > MAX_OUTPUT_BYTES:
                size = f"{shape[1]} x {shape[0]}"
                raise ReaderError(f"{len(chosen)} frames of {size} need {total / 2**30:.0f} GiB", "too_large")
            answer.reserve(total)
            answer.send(
                "planned",
                shape=[len(chosen), *shape],
                indices=chosen.tolist(),
                ticks=(timeline.ticks[chosen] - timeline.ticks[0]).tolist(),
                base=_fraction(timeline.base),
                seconds=timeline.seconds,
            )
        if image.shape != shape:
            raise ReaderError(f"the picture size changes from {shape[:2]} to {image.shape[:2]} (h, w)")
        answer.write(delivered * image.nbytes, image)
        delivered += 1
        if request.follow and time.monotonic() - told > TELL_SECONDS:
            answer.send("frames", ready=delivered)
            told = time.monotonic()
    if delivered != len(chosen):
        raise ReaderError(f"delivered {delivered} of {len(chosen)} frames")
    answer.send("frames", ready=delivered)
    indices: list[int] = chosen.tolist()
    return indices


def _side(request: Request, facts: Facts, frames: int) -> int | None:
    """Longest side of the frames: as asked for, or less where they would not fit into ``max_bytes``."""
    size = squared((facts.width, facts.height), facts.form.pixel)
    total = 3 * size[0] * size[1] * frames
    if total <= request.max_bytes:
        return request.max_side
    side = max(LEAST_SIDE, int(max(size) * (request.max_bytes / total) ** 0.5))
    return side if request.max_side is None else min(side, request.max_side)


def _choose(sampling: Sampling, scan: Scan | None, timeline: Timeline) -> NDArray[np.int64]:
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
