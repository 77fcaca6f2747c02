# SPDX-License-Identifier: Apache-2.0
"""PyAV: exact times, safe jumps, every codec that FFmpeg decodes.

It decodes only what the wanted frames need. Jumps go to key frames of the packet scan, and frames are recognised by
their presentation time, never by counting, so a seek that lands elsewhere is noticed. Between wanted frames, pictures
that no other picture refers to are skipped where the codec marks them (H.264, MPEG-2, MPEG-4): the wanted ones stay
equal to the last bit, and a third to a half of the work is saved.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import Header, turn_of
from vidcomp.video.container.libav import demux, reason_of
from vidcomp.video.container.packets import start_video
from vidcomp.video.container.plan import Segment, segments
from vidcomp.video.container.rates import is_filled, stream_rate
from vidcomp.video.container.scan import Timeline
from vidcomp.video.readers.base import INDEXED, ReaderError, Source, Uncounted, VideoReader, fitted
from vidcomp.video.readers.conform import Conformer, Form, form_of, framed, inside, pair, squared, swapped

__all__ = ["SKIPS", "PyAvReader"]

SKIPS = frozenset({"h264", "mpeg2video", "mpeg4"})  # codecs that mark pictures without dependants
# FFmpeg's own VP9 decoder gives wrong pictures of damaged data without a word; this one notices, and is as fast.
STRICT_DECODERS = {"vp9": "libvpx-vp9"}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own do not decode what is transparent


class PyAvReader(VideoReader):
    """Reads what FFmpeg reads."""

    name: ClassVar[str] = "pyav"

    def __init__(self) -> None:
        self._container: Any = None
        self._stream: Any = None
        self._decoder: Any = None
        self._source = Source("", Header())
        self._counted: Timeline | None = None
        self._conformer: Conformer
        self._pixel, self._follows = (1, 1), False  # the shape of a pixel, and whether pictures tell of another one
        self._size = (0, 0)
        self._turns: dict[int, tuple[int, bool]] = {}

    def open(self, source: Source) -> None:
        self._source = source
        opened = source.packets.opened if self.threads == VideoReader.threads else None
        if opened and self._source.jumps and source.scan is not None:
            self._begin(*opened)
            self._jump(int(source.scan.timeline.ticks[0]))
        else:
            self._begin(*start_video(source.path, self.threads))
        self._conform(form_of(self._stream))

    @property
    def claimed_seconds(self) -> float | None:
        if self._source.header.seconds is not None:
            return self._source.header.seconds
        if self._stream.frames and not is_filled(self._stream.frames):
            return None  # then FFmpeg guesses the length from the size
        lengths = [(self._container.duration or 0) / 1e6, float((self._stream.duration or 0) * self._stream.time_base)]
        if self._stream.frames and self._stream.average_rate:  # an AVI's header still counts what was cut off
            lengths.append(float(self._stream.frames / self._stream.average_rate))
        return max(lengths) if max(lengths) > 0 else None

    def timeline(self) -> Timeline:
        if self._source.sound and self._source.scan is not None:
            return self._source.scan.timeline
        return self.count()

    def count(self) -> Timeline:
        self.close()  # an earlier attempt may have left it anywhere
        ticks: list[int | None] = []
        last = 0
        for frame in self._frames():
            ticks.append(frame.pts)
            last = frame.duration or 0
        base, rate = Fraction(self._stream.time_base), stream_rate(self._container, self._stream).value
        self.close()  # from here on the stream must not be asked
        if not ticks:
            raise ReaderError("the file opens and holds no picture that can be decoded", "no_frames")
        self._counted = self._timed(ticks, base, last) or _by_rate(len(ticks), rate)
        return self._counted

    def _timed(self, ticks: list[int | None], base: Fraction, last: int) -> Timeline | None:
        """Times of decoded pictures, by their own times or by what the packets tell of them."""
        scan = self._source.scan
        if scan is None or not scan.untimed:
            least_step = int(self._source.facts.container == "mpeg")  # guessed times, wrong where two are the same
            timed = _by_time(ticks, base, last, least_step)
            return scan.timeline if timed and scan and scan.timeline.ticks.tolist() == ticks else timed
        if len(scan) == len(ticks):
            return scan.timeline
        return _by_rate(len(ticks), 1 / scan.step) if scan.step else None

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        if self._counted is not None or self._source.scan is None:
            yield from self._by_number(indices, max_side)
            return
        scan = self._source.scan
        for number, part in enumerate(segments(scan, indices, scan.keys if self._source.jumps else None)):
            if number or part.key:
                self._jump(int(scan.timeline.ticks[part.key]))
            yield from self._by_ticks(part, scan.timeline.ticks, max_side)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._conformer.notes.values())

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _begin(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._decoder = _strict_decoder(stream, self._source.header, self.threads) or stream.codec_context

    def _conform(self, form: Form) -> None:
        """Settle how the pictures of the stream are to be shown."""
        self._conformer = Conformer(form, opaque=self._source.facts.container == "avi")
        self._pixel = form.pixel
        # An index tells for the whole file; in other containers every picture may have a shape of its own.
        own = pair(self._stream.codec_context.sample_aspect_ratio)
        self._follows = self._source.header.kind not in INDEXED and own == form.pixel
        if form.alpha and self._decoder.name in ALPHA_DECODERS:
            self._conformer.notes["alpha"] = "transparent parts are not known: what lies under them is shown"
        if not form.plausible:
            self._conformer.notes["pixel"] = "pixels of {}:{} are not plausible: taken as square".format(*form.pixel)

    def _frames(self) -> Iterator[Any]:
        """Every frame that decodes, from the start of the file; what comes before an error at the end counts."""
        import av

        if self._container is None:
            self._begin(*start_video(self._source.path, self.threads))
        packets = demux(self._container, self._stream)
        begun = False  # what stands before the first key frame need not decode
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, ValueError) as error:
                packet, self.complaint = None, f"the rest of the file cannot be read ({reason_of(error)})"
            begun = begun or (packet is not None and packet.is_keyframe)
            try:
                yield from self._decoder.decode(packet)
            except av.error.FFmpegError as error:  # this packet is lost, the next may be good
                if begun:
                    self.complaint = self.complaint or f"pictures do not decode ({reason_of(error)})"
            if packet is None or packet.size == 0:
                return

    def _by_number(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        wanted = iter(indices)
        target = next(wanted, None)
        for number, frame in enumerate(self._frames()):
            self._check(frame)  # whether wanted or not: later ones are made from it
            if number == target:
                yield self._picture(frame, max_side)
                target = next(wanted, None)
            if target is None:
                return
        raise ReaderError(f"frame {target} was there on the first pass and not on the second")

    def _jump(self, ticks: int) -> None:
        self._container.seek(ticks, stream=self._stream, backward=True)
        if self._decoder is not self._stream.codec_context and self._decoder.is_open:
            self._decoder.flush_buffers()

    def _by_ticks(self, part: Segment, ticks: NDArray[np.int64], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        """Decode one run and pick its frames by their presentation time."""
        import av

        waiting = _named(part.wanted, ticks)
        times, unsent = {time for time, _ in waiting}, set(waiting)
        sent, seen = Counter[int](), Counter[int]()
        newest = int(ticks[part.key])
        try:
            for packet in demux(self._container, self._stream):
                if self._source.facts.codec in SKIPS:
                    needed = packet.pts in times or packet.pts is None
                    self._decoder.skip_frame = "DEFAULT" if needed else "NONREF"
                unsent.discard(_name(packet, sent))
                for frame in self._decoded(packet, last=not unsent and packet.size > 0):
                    if frame.pts is not None and frame.pts >= ticks[part.key]:
                        self._check(frame)  # whether wanted or not: later ones are made from it
                        if frame.pts < newest:  # then the container's times are guesses
                            raise Uncounted("pictures come in another order than their times")
                        newest = frame.pts
                    if (name := _name(frame, seen)) in waiting:
                        waiting.discard(name)
                        yield self._picture(frame, max_side)
                if not unsent:
                    break
        except av.error.FFmpegError as error:
            raise Uncounted(str(error)) from error
        if waiting:
            raise Uncounted(f"{len(waiting)} frames do not decode")

    def _decoded(self, packet: Any, last: bool) -> Iterator[Any]:
        """Frames that a packet brings; after the last one also what the decoder still holds."""
        yield from self._decoder.decode(packet)
        if last:
            yield from self._decoder.decode(None)

    def _check(self, frame: Any) -> None:
        if frame.is_corrupt:
            self.complaint = "the decoder marks pictures as damaged"
        if self._follows and frame.key_frame:
            self._pixel = pair(self._decoder.sample_aspect_ratio)

    def _turn(self, frame: Any) -> tuple[int, bool]:
        """Clockwise degrees by which a frame is to be rotated, and whether it is mirrored after that."""
        rotation = frame.rotation
        if rotation not in self._turns:  # not asked of every frame: one whose side data was seen is not freed at once
            matrix = frame.side_data.get("DISPLAYMATRIX")
            self._turns[rotation] = turn_of(struct.unpack("=9i", bytes(matrix))) if matrix is not None else (0, False)
        return self._turns[rotation]

    def _picture(self, frame: Any, max_side: int | None) -> NDArray[np.uint8]:
        """Convert to RGB at the wanted size, turn upright, and fit into the frame of the first picture."""
        self._check(frame)
        degrees, mirrored = self._turn(frame)
        lies = degrees % 180 != 0
        whole = self._shown((frame.width, frame.height), lies)
        frame_size = self._size if max_side is None else fitted(*self._size, max_side)
        size = frame_size if whole == self._size else inside(whole, frame_size)
        image = _rotated(self._conformer.rgb(frame, swapped(size, lies)), degrees, mirrored)
        return image if size == frame_size else framed(image, frame_size)

    def _shown(self, stored: tuple[int, int], lies: bool) -> tuple[int, int]:
        """Width and height of a picture at full size, upright and with square pixels. The first is the frame of all."""
        whole = swapped(squared(stored, self._pixel), lies)
        if self._size == (0, 0):
            self._size = whole
        notes = self._conformer.notes
        if whole != swapped(stored, lies):
            shape = "{}:{}".format(*self._pixel)
            notes.setdefault("pixel", f"pixels are {shape}, not square: pictures are stretched to {_by(whole)}")
        if whole != self._size:
            change = f"the picture changes from {_by(self._size)} to {_by(whole)} midway"
            notes.setdefault("size", f"{change}: it is fitted into the first size, with black bars")
        return whole


def _strict_decoder(stream: Any, header: Header, threads: int) -> Any:
    """A decoder that notices damage where FFmpeg's own does not; None where there is none.

    It does not know the rotation, which only the stream knows.
    """
    import av

    codec = stream.codec_context.name
    name = ALPHA_DECODERS.get(codec) if form_of(stream).alpha else STRICT_DECODERS.get(codec)
    if name is None or name not in av.codecs_available or header.rotation or header.mirrored:
        return None
    if not _takes(name, stream.codec_context.pix_fmt):
        return None
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata, decoder.thread_count = stream.codec_context.extradata, threads
    return decoder


@cache
def _takes(name: str, pixel_format: str | None) -> bool:
    """True if this build of a decoder knows a format of pictures: what it lacks is no fault of the file.

    What the encoder of the same library writes tells: some are built without anything above eight bits.
    """
    import av

    try:
        known = av.Codec(name, "w").video_formats or []
    except av.codec.codec.UnknownCodecError:
        return False
    return pixel_format in {format.name for format in known}


def _rotated(image: NDArray[np.uint8], degrees: int, mirrored: bool) -> NDArray[np.uint8]:
    """Turn clockwise by quarters, then mirror; ten times faster than numpy, which copies byte by byte."""
    import cv2

    if degrees:
        turns = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
        image = np.asarray(cv2.rotate(image, turns[degrees // 90 - 1]), dtype=np.uint8)
    return np.asarray(cv2.flip(image, 1), dtype=np.uint8) if mirrored else image


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


Name = tuple[int, int]  # presentation time, and how many with the same time came before: some files have twins


def _named(indices: Sequence[int], ticks: NDArray[np.int64]) -> set[Name]:
    """Names of frames by their index."""
    return {(int(ticks[index]), index - int(np.searchsorted(ticks, ticks[index]))) for index in indices}


def _name(item: Any, before: Counter[int]) -> Name:
    """Name of a packet or a frame, which is counted."""
    before[item.pts] += 1
    return item.pts, before[item.pts] - 1


def _by_time(ticks: list[int | None], base: Fraction, last: int, least_step: int) -> Timeline | None:
    """None when some times are not known or do not rise by ``least_step`` each."""
    known = np.array([value for value in ticks if value is not None], dtype=np.int64)
    steps = np.diff(known)
    rising = len(known) == len(ticks) and (steps >= least_step).all() and (len(known) < 2 or known[-1] > known[0])
    return Timeline(known, base, last) if rising else None


def _by_rate(count: int, rate: Fraction) -> Timeline:
    return Timeline(np.arange(count, dtype=np.int64), 1 / rate, 1)
