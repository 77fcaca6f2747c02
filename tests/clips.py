# SPDX-License-Identifier: Apache-2.0
"""Small test clips whose truth can be read back from the pixels.

Every frame carries its number as sixteen black or white cells in a band across the top, and a white block in the
lower left corner that shows which side is down. Clips are written with PyAV, which only the tests need.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BITS = 16
SIZE = (320, 240)  # width, height
BAND = 0.2  # share of the height that the number takes
X264 = {"preset": "veryfast", "crf": "23"}


def frame_image(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The picture of frame ``number``: uint8 ``[h, w, 3]`` RGB, different from every other frame's."""
    width, height = size
    rng = np.random.default_rng(number)
    coarse = rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((-(-height // 6), -(-width // 8), 1), np.uint8))[:height, :width].copy()
    band = int(height * BAND)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[:band, left:right] = 235 if number >> bit & 1 else 16
    image[height - band :, : width // 8] = 235
    return image


def read_number(image: np.ndarray) -> int:
    """The number burned into an upright frame ``[h, w, 3]`` of any size."""
    height, width = image.shape[:2]
    row = image[int(height * BAND / 4) : int(height * BAND * 3 / 4)].mean(axis=(0, 2))  # [w]
    cells = [row[int((bit + 0.3) * width / BITS) : int((bit + 0.7) * width / BITS) + 1].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, level in enumerate(cells) if level > 128)


def read_numbers(pixels: np.ndarray) -> list[int]:
    """The numbers burned into frames ``[T, h, w, 3]``."""
    return [read_number(image) for image in pixels]


def make_clip(
    path: Path,
    frames: int = 60,
    *,
    fps: int = 25,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: list[float] | None = None,
    sound_seconds: float = 0.0,
    container: dict[str, str] | None = None,
    format: str | None = None,
    turned: int = 0,
) -> Path:
    """Encode frames 0, 1, 2 ... and return ``path``.

    Args:
        times: presentation seconds of each frame; ``frame / fps`` when not given.
        sound_seconds: length of a silent AAC track beside the pictures.
        turned: counter-clockwise quarter turns of the stored pictures, for clips that players shall turn back.
    """
    import av

    with av.open(str(path), "w", options=container or {}, format=format) as output:
        stream: Any = output.add_stream(codec, rate=fps, options=X264 if options is None else options)
        stream.width, stream.height = size[::-1] if turned % 2 else size
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = output.add_stream("aac", rate=8000) if sound_seconds else None
        for number in range(frames):
            image = np.ascontiguousarray(np.rot90(frame_image(number, size), turned))
            frame: Any = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            _silence(output, sound, sound_seconds)
    return path


def make_sound(path: Path, seconds: float = 1.0, codec: str = "aac") -> Path:
    """A file with sound and no picture."""
    import av

    with av.open(str(path), "w") as output:
        _silence(output, output.add_stream(codec, rate=8000), seconds)
    return path


def _silence(output: Any, stream: Any, seconds: float) -> None:
    import av

    for start in range(0, int(seconds * 8000), 1024):
        frame: Any = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


def make_cut(path: Path, source: Path, *, start: float, stop: float) -> Path:
    """Cut ``source`` without encoding again: an edit list hides the frames before ``start`` that decoding needs."""
    import av

    with av.open(str(source)) as read, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as output:
        track: Any = read.streams.video[0]
        copy: Any = output.add_stream_from_template(track)
        shift = round(start / track.time_base)
        for packet in read.demux(track):
            if packet.dts is None or packet.pts * track.time_base >= stop:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            output.mux(packet)
    return path


def make_twins(path: Path, source: Path, every: int = 7) -> Path:
    """Copy a clip without B-frames so that every so many pictures share their time with the one before."""
    import av

    with av.open(str(source)) as read, av.open(str(path), "w") as output:
        track: Any = read.streams.video[0]
        copy: Any = output.add_stream_from_template(track)
        before = 0
        for number, packet in enumerate(packet for packet in read.demux(track) if packet.size):
            if number % every == every - 1:
                packet.pts = packet.dts = before
            before, packet.stream = packet.pts, copy
            output.mux(packet)
    return path


def remux(
    path: Path,
    source: Path,
    change: Callable[[int, Any], Any] = lambda number, packet: packet,
    container: dict[str, str] | None = None,
) -> Path:
    """Copy the picture track packet by packet; ``change`` gets its number and the packet and returns what to write."""
    import av

    with av.open(str(source)) as read, av.open(str(path), "w", options=container or {}) as output:
        track: Any = read.streams.video[0]
        copy: Any = output.add_stream_from_template(track, opaque=True)
        for number, packet in enumerate(packet for packet in read.demux(track) if packet.size):
            packet = change(number, packet)
            packet.stream = copy
            output.mux(packet)
    return path


def make_tracks(path: Path, *tracks: tuple[int, int, int], default: int) -> Path:
    """Several picture tracks, each of so many frames from a first number on at a rate; one is the default."""
    import av

    with av.open(str(path), "w") as output:
        streams: list[Any] = []
        for number, (_, _, fps) in enumerate(tracks):
            stream: Any = output.add_stream("libx264", rate=fps, options=X264)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            stream.disposition = av.stream.Disposition.default.value if number == default else 0
            streams.append(stream)
        for stream, (count, first, _) in zip(streams, tracks, strict=True):
            for number in range(count):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame_image(first + number), format="rgb24")))
            output.mux(stream.encode())
    return path


def rotate(path: Path, source: Path, degrees: int = 90) -> Path:
    """Copy an MP4 and say in its track header that players shall turn the picture clockwise by 90, 180 or 270."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return set_matrix(path, source, cosine, sine, -sine, cosine)


def set_matrix(path: Path, source: Path, a: float, b: float, c: float, d: float) -> Path:
    """Copy an MP4 and write a display matrix into its track header."""
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4
    version = data[start]
    matrix = start + (4 + 8 + 8 + 4 + 4 + 8 if version else 4 + 4 + 4 + 4 + 4 + 4) + 16
    fixed = [round(value * 0x10000) for value in (a, b, 0, c, d, 0)]
    data[matrix : matrix + 36] = struct.pack(">9i", *fixed, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def patch_size(path: Path, source: Path, width: int, height: int) -> Path:
    """Copy an MP4 whose sample description claims another picture size."""
    data = bytearray(source.read_bytes())
    entry = data.index(b"avc1", data.index(b"stsd")) + 4
    data[entry + 24 : entry + 28] = struct.pack(">HH", width, height)
    path.write_bytes(data)
    return path
