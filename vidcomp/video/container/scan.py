# SPDX-License-Identifier: Apache-2.0
"""The packet scan: when every frame is shown and where decoding may start, read from a container without decoding.

Demuxing costs about a hundredth of decoding, and it is the source of truth for frame counts, times and plans. Packets
that an edit list hides are known by their discard flag. What a scan cannot know is whether a picture decodes; a reader
that misses one counts again by decoding (see ``VideoReader.count``).

Letters used in shapes: N presentable frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.gif import gif_ends
from vidcomp.video.container.libav import demux, reason_of
from vidcomp.video.container.rates import is_filled, is_paced, is_raw, stream_rate
from vidcomp.video.container.riff import empty_chunks

__all__ = ["Scan", "Timeline", "scan_video"]

Ticks = NDArray[np.int64]
COARSE = 20  # ticks per step below which a tick is no small thing
# Codecs of which all pictures may be keys: those without any other, and those that are used so and whose decoders
# give nothing before the first key. Most of the others depend on earlier pictures.
SELF_CONTAINED = frozenset(
    "h264 mpeg2video vp8 vp9 av1 mjpeg mjpegb prores dnxhd dvvideo ffv1 huffyuv ffvhuff utvideo magicyuv png apng gif"
    " webp rawvideo v210 v308 v408 v410 cfhd hap jpeg2000 jpegxl bmp tiff dpx exr targa wrapped_avframe".split()
)
NOT_CODED = 8  # bytes of an MPEG-4 packet, at most, that says that the picture before stays
SHOWN = 0x10  # bit of the first byte of a VP8 picture (RFC 6386, 9.1)
SEAM_STEPS = 1.5  # between two packets where nothing is lost, at most
MOST_DELAY = 8  # pictures that an encoder waits for
LONGEST = 20_000_000  # packets; four days at 60 frames per second


@dataclass(frozen=True)
class Timeline:
    """Exact time of each presentable frame.

    Attributes:
        ticks: int64 ``[N]``, presentation times in units of ``base`` seconds, not decreasing, in the file's own clock.
        base: seconds per tick.
        last: ticks that the last frame lasts, 0 when nothing tells.
    """

    ticks: Ticks
    base: Fraction
    last: int = 0

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds from the first frame on, ``[N]``."""
        seconds: NDArray[np.float64] = (self.ticks - self.ticks[0]) * float(self.base)
        return seconds

    @property
    def start(self) -> Fraction:
        """Seconds of the first frame in the file's own clock."""
        return int(self.ticks[0]) * self.base

    @property
    def seconds(self) -> float:
        """From the start of the first frame to the end of the last, which lasts as long as the median frame if
        nothing tells."""
        last = self.last
        if last <= 0 and len(self) > 1:
            last = int(np.median(np.diff(self.ticks)))
        return float((int(self.ticks[-1] - self.ticks[0]) + last) * self.base)


@dataclass(frozen=True)
class Scan:
    """Facts from the packets of the picture track, presentation order.

    Attributes:
        timeline: of the packets that are to be shown.
        keys: bool ``[N]``, decoding can start at this frame.
        order: int32 ``[N]``, place of each frame among all packets, in decoding order.
        hidden: packets that show nothing: an edit list hides them, or they are VP8 pictures made for reference only.
        exact: the packets tell every frame's time and none is doubtful; otherwise frames have to be counted by
        decoding.
        complaint: what was wrong with the packets, in words; empty when nothing was.
        untimed: the packets do not tell when pictures are shown, only that they follow one another: their order need
        not be that of the packets.
        guessed: not even their rate is given, and one is assumed.
    """

    timeline: Timeline
    keys: NDArray[np.bool_]
    order: NDArray[np.int32]
    hidden: int
    exact: bool
    complaint: str = ""
    untimed: bool = False
    guessed: bool = False

    def __len__(self) -> int:
        return len(self.timeline)

    @property
    def step(self) -> Fraction:
        """Seconds from one picture to the next, usually."""
        steps = np.diff(self.timeline.ticks)
        return int(np.median(steps)) * self.timeline.base if len(steps) else self.timeline.last * self.timeline.base

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that a viewer would not expect of the times, a line each."""
        if not self.guessed or len(self) < 2:
            return ()
        return (f"times are guessed: the file has none; {float(1 / self.step):g} frames per second assumed",)

    @property
    def variable_rate(self) -> bool:
        """True when steps between frames differ by more than rounding to ticks explains."""
        steps = np.diff(self.timeline.ticks)
        if not len(steps):
            return False
        usual = float(np.median(steps))
        rounding = 1 if usual < COARSE else 2  # a file that was converted may have been rounded twice
        return bool(steps.max() - steps.min() > max(rounding, 0.02 * usual))


def scan_video(container: Any, stream: Any, table: tuple[Ticks, str] | None = None) -> Scan | None:
    """Scan one picture track of an open PyAV container; None when it has no packets to show.

    The container is read to its end, unless ``index_table`` gave a ``table``. Packets are never decoded and their bytes
    are not kept.
    """
    rows, complaint = _indexed(*table) if table else _packets(container, stream)
    coded = bool(table) or stream.codec_context.name != "mpeg4" or bool((rows[:, _BYTES] > NOT_CODED).all())
    if not len(rows):
        return None
    shown = rows[rows[:, _HIDDEN] == 0]
    if not len(shown):
        return None
    decoding = rows[rows[:, _DTS] != _NONE, _DTS]
    exact = (
        not complaint and coded and bool(rows[0, _KEY]) and not (np.diff(decoding) < 0).any()
    )  # else joined from several files
    clock, guessed = _clock(container, stream, shown)
    shown = shown[np.argsort(shown[:, _PTS], kind="stable")]
    timeline = clock or Timeline(shown[:, _PTS].copy(), Fraction(stream.time_base), int(shown[-1, _DURATION]))
    if container.format.name == "avi":
        timeline = replace(timeline, last=0 if complaint else _to_the_end(stream, timeline.ticks))
    ticks = timeline.ticks
    exact &= clock is None and (len(ticks) == 1 or bool(ticks[-1] > ticks[0]))
    # A program stream tells some times only. The others are guesses, wrong ones where two are the same.
    exact &= not (container.format.name == "mpeg" and bool((np.diff(ticks) == 0).any()))
    keys, order = shown[:, _KEY].astype(bool), shown[:, _ORDER].astype(np.int32)
    if keys.all() and stream.codec_context.name not in SELF_CONTAINED:
        keys = order == 0  # a file that does not say which packets are keys calls all of them so
    first_key = order[keys].min() if keys.any() else len(rows)
    exact &= not bool((order[: int(keys.argmax())] > first_key).any())  # leading pictures whose references are missing
    hidden = int((rows[:, _HIDDEN] != 0).sum())
    return Scan(timeline, keys, order, hidden, exact, complaint, clock is not None, guessed)


def _clock(container: Any, stream: Any, shown: Ticks) -> tuple[Timeline | None, bool]:
    """Times of pictures that have none of their own, and whether that is guessed; None if they have some.

    Packets without presentation times that come in the order of their pictures get them, in place.
    """
    times, steps = shown[:, _PTS], shown[:, _DTS]
    unknown, stepping = bool((times == _NONE).any()), bool((steps != _NONE).all())
    if container.format.name == "avi" and stepping and len(np.unique(times - steps)) > 1:
        return Timeline(_without_delay(np.sort(steps)), Fraction(stream.time_base)), False
    if unknown and stepping and not stream.codec_context.has_b_frames:
        shown[:, _PTS], unknown = steps, False
    if not unknown and not is_paced(container):
        return None, False
    rate = stream_rate(container, stream)
    if unknown or (is_raw(container) and not rate.guessed):
        return Timeline(np.arange(len(shown), dtype=np.int64), 1 / rate.value, 1), rate.guessed
    return None, rate.guessed


def _without_delay(steps: Ticks) -> Ticks:
    """Steps of an AVI without those that an encoder of B-frames left empty while it waited for its first pictures."""
    gaps = np.diff(steps)
    usual = int(np.median(gaps)) if len(gaps) else 1
    late = np.flatnonzero(gaps != usual)
    if len(late) and late[-1] < MOST_DELAY and steps[-1] - steps[0] <= (len(gaps) + MOST_DELAY) * usual:
        return np.arange(len(steps), dtype=np.int64) * usual
    return steps


def _to_the_end(stream: Any, ticks: Ticks) -> int:
    """Steps from the last picture of an AVI to the end that its header tells; 0 when it does not."""
    return max(0, stream.frames - int(ticks[-1])) if is_filled(stream.frames) else 0


_NONE = np.iinfo(np.int64).min
_PTS, _DTS, _DURATION, _KEY, _HIDDEN, _ORDER, _BYTES = range(7)


def _indexed(table: Ticks, complaint: str) -> tuple[Ticks, str]:
    rows = np.zeros((len(table), 7), dtype=np.int64)
    rows[:, [_PTS, _DTS, _DURATION, _KEY]], rows[:, _ORDER] = table, np.arange(len(table))
    return rows, complaint


def _packets(container: Any, stream: Any) -> tuple[Ticks, str]:
    """One row per packet, in decoding order, and what went wrong while reading them."""
    import av

    rows: list[tuple[int, int, int, bool, bool, int, int]] = []
    corrupt: list[int] = []
    complaint, vp8, end = "", stream.codec_context.name == "vp8", 0
    try:
        for packet in demux(container, stream):
            if not packet.size or len(rows) >= LONGEST:
                continue
            pts, dts = packet.pts, packet.dts  # a hundred thousand packets an hour: kept plain
            rows.append((_NONE if pts is None else pts, _NONE if dts is None else dts, packet.duration or 0,
                         packet.is_keyframe, packet.is_discard or (vp8 and not memoryview(packet)[0] & SHOWN),
                         len(rows), packet.size))  # fmt: skip
            end = (packet.pos or 0) + packet.size
            if packet.is_corrupt:
                corrupt.append(len(rows) - 1)
    except (av.error.FFmpegError, ValueError) as error:
        complaint = f"packets end with an error ({reason_of(error)})"
    if not complaint and container.format.name == "yuv4mpegpipe" and end < container.size:
        complaint = "the last picture is cut short"
    if not complaint and container.format.name == "gif" and not gif_ends(container.name):
        complaint = "the file is cut short"
    # An AVI's header counts its pictures; an MP4's counts those that its edit list leaves out as well.
    if not complaint and container.format.name == "avi" and is_filled(stream.frames):
        missing = max(0, stream.frames - len(rows))
        missing -= empty_chunks(container.name, stream.index) if missing else 0
        complaint = f"{missing} of {stream.frames} pictures are missing" if missing > 0 else ""
    table = np.array(rows, dtype=np.int64).reshape(-1, 7)
    if not complaint and corrupt and not _are_seams(table, np.array(corrupt)):
        complaint = "damaged packets"
    return table, complaint


def _are_seams(rows: Ticks, places: Ticks) -> bool:
    """Packets that are called corrupt stand where another part was joined to the one before.

    Demuxers of transport streams call the last packet of a part so, or the one before it, because the numbers of
    packets jump there. Behind it comes a key frame, at a time that is the next one, or where the clock starts anew.
    """
    keys, steps = rows[1:, _KEY] != 0, np.diff(rows[:, _DTS])
    if rows[:, _KEY].all() or not len(steps):
        return False
    seams = np.append(keys & (steps <= SEAM_STEPS * np.median(steps)), [False, False])  # behind each packet
    return bool((seams[places] | seams[places + 1]).all())
