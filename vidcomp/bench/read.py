"""Reading a video beside raw calls of the same libraries, alternating in one process.

The raw calls are the best that each library offers for the same frames, without isolation, checks or exact times: they
take the frames that the scan names and may return others (docs/reading.md says when).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.bench.timing import Timing
from vidcomp.video import READERS, Sampling, read_frames

__all__ = ["RAW_CALLS", "ReadBench", "bench_read"]

Raw = Callable[[str, Sequence[int]], Any]


def _decord_batch(path: str, indices: Sequence[int]) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord.VideoReader(path, num_threads=2).get_batch(list(indices)).asnumpy()


def _decord_forward(path: str, indices: Sequence[int]) -> Any:
    import decord

    reader, images, position = decord.VideoReader(path, num_threads=2), [], 0
    for index in indices:
        if index > position:
            reader.skip_frames(index - position)
        images.append(reader.next().asnumpy())
        position = index + 1
    return images


def _pyav_forward(path: str, indices: Sequence[int]) -> Any:
    import av

    wanted, images = set(indices), []
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                images.append(frame.to_ndarray(format="rgb24"))
            if len(images) == len(wanted):
                break
    return images


def _opencv_forward(path: str, indices: Sequence[int]) -> Any:
    import cv2

    wanted, images = set(indices), []
    capture = cv2.VideoCapture(path)
    for number in range(max(indices) + 1):
        if capture.grab() and number in wanted:
            images.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return images


RAW_CALLS: dict[str, tuple[str, Raw]] = {
    "decord, get_batch": ("decord", _decord_batch),
    "decord, skip and next": ("decord", _decord_forward),
    "pyav, decode through": ("pyav", _pyav_forward),
    "opencv, grab through": ("opencv", _opencv_forward),
}
"""Name to the reader it belongs to and the call."""


@dataclass(frozen=True)
class ReadBench:
    """Timings by name: ``vidcomp`` chooses a reader, ``vidcomp, NAME`` is bound to one, the others are raw calls."""

    reader: str
    timings: dict[str, Timing]

    def ratio(self, reader: str) -> float | None:
        """Median of ours over the best raw median of the same reader; None when one of them cannot read the file."""
        ours = self.timings.get(f"vidcomp, {reader}")
        raw = [
            self.timings[name].median for name, (of, _) in RAW_CALLS.items() if of == reader and name in self.timings
        ]
        return ours.median / min(raw) if ours and raw else None

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench read --json``."""
        ratios = {reader: self.ratio(reader) for reader in READERS}
        return {"reader": self.reader, "ratios": ratios, "seconds": {k: t.to_dict() for k, t in self.timings.items()}}


def bench_read(path: Path, sampling: Sampling, *, repeats: int = 7, seconds: float = 120.0) -> ReadBench:
    """Time every way that works on this file, one after the other in each round.

    Args:
        repeats: rounds that count; one more goes before them.
        seconds: no new round begins after this long, so that slow files end too.
    """
    chosen = read_frames(path, sampling)
    indices, ways = chosen.indices.tolist(), dict(_ways(path, sampling, chosen.indices.tolist()))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.monotonic()
    for number in range(repeats + 1):
        for name, call in list(ways.items()):
            start = time.perf_counter()
            try:
                delivered = call()
            except Exception:  # whatever a library raises, it cannot read this file
                del ways[name], taken[name]
                continue
            passed = time.perf_counter() - start
            if len(delivered) != len(indices):
                del ways[name], taken[name]
            elif number:
                taken[name].append(passed)
            del delivered  # or giving its memory back would count as the next one's time
        if time.monotonic() - begun > seconds and number:
            break
    return ReadBench(chosen.info.reader, {name: Timing.of(times) for name, times in taken.items()})


def _ways(path: Path, sampling: Sampling, indices: list[int]) -> dict[str, Callable[[], Any]]:
    def ours(readers: list[str] | None) -> Callable[[], Any]:
        return lambda: read_frames(path, sampling, readers=readers).pixels

    def raw(call: Raw) -> Callable[[], Any]:
        return lambda: call(str(path), indices)

    ways = {"vidcomp": ours(None)} | {f"vidcomp, {name}": ours([name]) for name in READERS}
    return ways | {name: raw(call) for name, (_, call) in RAW_CALLS.items()}
