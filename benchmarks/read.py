# SPDX-License-Identifier: Apache-2.0
"""Reading a video beside raw calls of the same library, in rounds in one process.

The raw calls are the best that each library offers for the same frames, without isolation, checks or exact times: they
take the frames that the scan names and may return others (docs/reading.md says when).

    python -m benchmarks.read VIDEO --repeats 25
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.memory import peak_of_processes
from vidcomp.bench.paired import MedianInterval, faster_or_slower, paired_ratio
from vidcomp.bench.timing import Timing
from vidcomp.cli.console import Ui, data, out_console, print_error
from vidcomp.cli.options import path_argument, with_config, with_ui
from vidcomp.config import RunConfig, VideoConfig
from vidcomp.core.arguments import checked, expect
from vidcomp.core.stock_rules import StockRule
from vidcomp.errors import VidcompError
from vidcomp.report.sheet import Sheet
from vidcomp.video import READERS, Frames, Sampling, read_frames
from vidcomp.video.options import readers_of, sampling_of
from vidcomp.video.process.client import stop_workers

__all__ = ["RAW_CALLS", "ReadBench", "bench_read", "main"]

Raw = Callable[[str, Sequence[int]], Any]
Way = Callable[[], Any]


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


FAST = "vidcomp, --seek fast"
LOOK = "vidcomp, inspection"
PAUSE_SECONDS = 0.01  # after each: decoders that are being closed must not take the next one's time


@dataclass(frozen=True)
class ReadBench:
    """Costs of one video.

    Attributes:
        reader: the one that vidcomp chose.
        seconds: of each round, by name: ``vidcomp`` chooses a reader, ``vidcomp, NAME`` is bound to one, the others are
            raw calls. All until the frames are there; ``vidcomp, inspection`` is until it is known that the file is
            not damaged, where that takes longer. Ways that are compared ran in the same rounds.
        peak_bytes: resident memory of all processes above that before the first reading, its frames included, with no
            decoding process running yet; None where it cannot be measured.
    """

    reader: str
    seconds: dict[str, list[float]]
    peak_bytes: int | None = None

    @property
    def timings(self) -> dict[str, Timing]:
        """Median and spread of every way."""
        return {name: Timing.of(rounds) for name, rounds in self.seconds.items()}

    def ratio(self, reader: str) -> MedianInterval | None:
        """Ours over the best raw call of the same reader, by its median; None when one of them cannot read the file."""
        raw = [name for name, (of, _) in RAW_CALLS.items() if of == reader and name in self.seconds]
        if not raw or f"vidcomp, {reader}" not in self.seconds:
            return None
        best = min(raw, key=lambda name: self.timings[name].median)
        return paired_ratio(self.seconds[f"vidcomp, {reader}"], self.seconds[best])

    @property
    def fast_gain(self) -> MedianInterval | None:
        """Gain of ``--seek fast``; None when the frames were not to be exact anyway."""
        return paired_ratio(self.seconds["vidcomp"], self.seconds[FAST]) if FAST in self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        ratios = {reader: self.ratio(reader) for reader in READERS}
        return {
            "reader": self.reader,
            "ratios": {reader: ratio and ratio.value for reader, ratio in ratios.items()},
            "ratio_intervals": {reader: ratio and ratio.bounds for reader, ratio in ratios.items()},
            "fast_gain": self.fast_gain and self.fast_gain.value,
            "fast_gain_interval": self.fast_gain and self.fast_gain.bounds,
            "peak_bytes": self.peak_bytes,
            "seconds": {name: timing.to_dict() for name, timing in self.timings.items()},
        }


@checked
def bench_read(
    path: Path,
    sampling: Sampling,
    *,
    readers: Sequence[str] | None = None,
    repeats: int = 11,
    alone: bool = False,
    seconds: float = 120.0,
    deadline_seconds: float | None = None,
    strict: bool = False,
) -> ReadBench:
    """Time every way that works on this file: exact and fast side by side, then each reader beside its raw calls.

    Args:
        repeats: rounds that count, the ways in an order drawn for each; one more goes before them and does not count.
        alone: only what vidcomp chooses, exact and fast; the others go through the whole file: minutes for an hour.
        seconds: no new round begins after this long, so that slow files end too.
        readers, deadline_seconds, strict: as in :func:`~vidcomp.video.read_frames`.
    """
    expect("path", path, isinstance(path, (str, os.PathLike)), "a path")
    expect("sampling", sampling, isinstance(sampling, Sampling), "a Sampling")
    read = partial(read_frames, path, readers=readers, deadline_seconds=deadline_seconds, strict=strict)
    chosen, peak_bytes = _read_anew(partial(read, sampling))
    contests = [_own_ways(read, sampling, chosen.inspection is not None)]
    if not alone:
        indices = chosen.indices.tolist()
        contests += [_compared_ways(reader, partial(read, sampling), path, indices) for reader in READERS]
    count, reader = len(chosen.pixels), chosen.info.reader
    del chosen
    taken: dict[str, list[float]] = {}
    for ways in contests:
        taken |= _alternate(ways, count, repeats, seconds / len(contests))
    return ReadBench(reader, taken, peak_bytes)


def _alternate(ways: dict[str, Way], count: int, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Go round and round; a way that fails or delivers another number of frames is left out."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    draw, begun = random.Random(0), time.monotonic()
    for number in range(repeats + 1):
        for name in draw.sample(list(taken), len(taken)):
            start = time.perf_counter()
            try:
                delivered = ways[name]()
            except Exception:  # whatever a library raises, it cannot read this file
                del taken[name]
                continue
            passed = time.perf_counter() - start
            if len(delivered) != count:
                del taken[name]
            elif number:
                taken[name].append(passed)
            if isinstance(delivered, Frames):
                delivered.wait()  # so that it does not go on in the next one's time
            del delivered  # or giving its memory back would count as the next one's time
            time.sleep(PAUSE_SECONDS)
        if time.monotonic() - begun > seconds and number:
            break
    return taken


def _read_anew(read: Callable[[], Frames]) -> tuple[Frames, int | None]:
    """The frames, and what it takes to read them from the start of the decoding process on."""
    stop_workers()
    with peak_of_processes() as peak:
        frames = read()
        frames.pixels.max()  # memory counts once it was touched
    return frames, peak.bytes


def _own_ways(read: Callable[[Sampling], Frames], sampling: Sampling, looks: bool) -> dict[str, Way]:
    ways: dict[str, Way] = {"vidcomp": lambda: read(sampling)}
    if sampling.seek == "exact":
        ways[FAST] = lambda: read(replace(sampling, seek="fast"))
    if looks:
        ways[LOOK] = lambda: read(sampling).wait()
    return ways


def _compared_ways(reader: str, read: Callable[..., Frames], path: Path, indices: list[int]) -> dict[str, Way]:
    def raw(call: Raw) -> Way:
        return lambda: call(str(path), indices)

    ways: dict[str, Way] = {f"vidcomp, {reader}": lambda: read(readers=[reader])}
    return ways | {name: raw(call) for name, (of, call) in RAW_CALLS.items() if of == reader}


@with_ui
@with_config(VideoConfig)
def read(
    video: Annotated[Path, path_argument("video file")],
    repeats: Annotated[int, typer.Option("--repeats", help="measured rounds", min=1, max=1000)] = 11,
    alone: Annotated[
        bool, typer.Option("--alone", help="no raw calls: they go through the whole file, an hour of it in minutes")
    ] = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Time reading beside raw calls of decord, PyAV and OpenCV, in rounds whose order is drawn by chance."""
    result = bench_read(
        video, sampling_of(config.video, 32, StockRule(frames=32)), readers=readers_of(config.video), repeats=repeats,
        alone=alone,
        deadline_seconds=config.video.deadline, strict=config.video.strict,
    )  # fmt: skip
    if ui.json:
        data(result.to_dict())
        return
    out_console().print(_read_table(result))
    data(f"chosen: {result.reader}")
    ratios = [
        f"{reader} {ratio.value:.2f}x ({ratio.range_text})"
        for reader in READERS
        if (ratio := result.ratio(reader)) is not None
    ]
    if ratios:
        data(f"vidcomp's time over the best raw call of the same reader: {', '.join(ratios)}")
    if (gain := result.fast_gain) is not None:
        data(f"--seek fast: {faster_or_slower(gain)}")
    if result.peak_bytes is not None:
        data(f"memory above the idle process, all processes: {result.peak_bytes / 2**20:.0f} MiB")


def _read_table(result: ReadBench) -> Sheet:
    table = Sheet("way", "ms (10-90 %)")
    for name, t in result.timings.items():
        table.add_row(name, f"{t.median * 1e3:.1f} ({t.p10 * 1e3:.1f}-{t.p90 * 1e3:.1f})")
    return table


def main(args: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    app = typer.Typer(add_completion=False)
    app.command()(read)
    try:
        app(args=list(args), standalone_mode=False)
    except VidcompError as error:
        print_error(error)
        return error.status
    finally:
        stop_workers()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
