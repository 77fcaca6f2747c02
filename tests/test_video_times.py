# SPDX-License-Identifier: Apache-2.0
"""Times are those that were muxed, whatever container holds the pictures, and however they came into it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import frame_image, make_clip, read_numbers
from waiting import read_frames

from vidcomp.errors import InputError
from vidcomp.video import Sampling
from vidcomp.video.probe import probe
from vidcomp.video.readers.pyav import _takes

FRAMES, SIZE = 24, (128, 96)
FORMATS = {"avi": "avi", "mkv": "matroska", "mp4": "mp4", "flv": "flv", "ts": "mpegts", "nut": "nut", "h264": "h264",
           "hevc": "hevc", "m2v": "mpeg2video", "m4v": "m4v", "mpg": "mpeg", "y4m": "yuv4mpegpipe", "ivf": "ivf",
           "mjpeg": "mjpeg"}  # fmt: skip
X265 = {"preset": "ultrafast", "x265-params": "log-level=0:bframes=3"}
CODECS = {
    "h264": ("libx264", {"preset": "veryfast", "bf": "0"}, "yuv420p"),
    "h264 b": ("libx264", {"preset": "veryfast", "bf": "3"}, "yuv420p"),
    "hevc b": ("libx265", X265, "yuv420p"),
    "mpeg4": ("mpeg4", {"bf": "0"}, "yuv420p"),
    "mpeg4 b": ("mpeg4", {"bf": "2"}, "yuv420p"),
    "mpeg2 b": ("mpeg2video", {"bf": "2"}, "yuv420p"),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "mjpeg": ("mjpeg", {}, "yuvj420p"),
    "raw": ("wrapped_avframe", {}, "yuv420p"),
}
TABLE = [
    *((container, codec) for container in ("avi", "mkv") for codec in CODECS if codec != "raw"),
    ("mp4", "h264 b"), ("mp4", "hevc b"), ("flv", "h264 b"), ("ts", "h264 b"), ("nut", "mpeg4 b"),
    ("h264", "h264"), ("h264", "h264 b"), ("hevc", "hevc b"), ("m2v", "mpeg2 b"), ("m4v", "mpeg4 b"),
    ("mpg", "mpeg2 b"), ("ivf", "vp8"), ("y4m", "raw"),
]  # fmt: skip
RAW = frozenset({"h264", "hevc", "m2v", "m4v"})
WAYS = [
    ("encoded", Fraction(10)),
    ("encoded", Fraction(30000, 1001)),
    ("copied", Fraction(10)),
    ("piped", Fraction(10)),
]


class Pipe:
    """A file that only goes forward: a muxer cannot fill in its header afterwards."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self.file.write(data)


def encode(target: object, codec: str, rate: Fraction, container: str) -> None:
    name, options, pixels = CODECS[codec]
    with av.open(target, "w", format=FORMATS[container]) as output:
        stream = output.add_stream(name, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(frame_image(number, SIZE), format="rgb24")
            output.mux(stream.encode(frame.reformat(format=pixels)))
        output.mux(stream.encode())


def copy(path: Path, source: Path, container: str) -> None:
    with av.open(str(source)) as read, av.open(str(path), "w", format=FORMATS[container]) as output:
        track = read.streams.video[0]
        made = output.add_stream_from_template(track)
        for packet in read.demux(track):
            if packet.size:
                packet.stream = made
                output.mux(packet)


def check(path: Path, rate: Fraction) -> None:
    frames, looked = read_frames(path, Sampling(FRAMES), readers=["pyav"]), probe(path)
    assert frames.degraded is None
    assert read_numbers(frames.pixels) == list(range(FRAMES))
    assert np.abs(frames.times - np.arange(FRAMES) / float(rate)).max() < 2e-3
    assert frames.info.duration_seconds == pytest.approx(FRAMES / rate, abs=3e-3)
    assert looked.seconds == pytest.approx(frames.info.duration_seconds, abs=2e-3)


@pytest.mark.parametrize(("how", "rate"), WAYS, ids=str)
@pytest.mark.parametrize(("container", "codec"), TABLE)
def test_times_are_those_that_were_muxed(tmp_path, container, codec, how, rate):
    if rate == 10 and codec == "mpeg2 b":
        rate = Fraction(25)  # it knows a few rates only
    path = tmp_path / f"clip.{container}"
    try:
        if how == "copied":
            source = "ts" if container in RAW else "nut"  # raw streams need their parameter sets inside
            encode(str(tmp_path / f"source.{source}"), codec, rate, source)
            copy(path, tmp_path / f"source.{source}", container)
        else:
            encode(str(path) if how == "encoded" else Pipe(path), codec, rate, container)
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"cannot be written here: {error}")
    if how == "piped" and container == "mp4":
        pytest.skip("an MP4 cannot be written into a pipe without fragments")
    check(path, rate)


def test_times_that_nothing_tells_are_called_guessed(tmp_path):
    path = tmp_path / "clip.mjpeg"
    encode(str(path), "mjpeg", Fraction(10), "mjpeg")
    frames = read_frames(path, Sampling(4), readers=["pyav"])
    said = "times are guessed: the file has none; 25 frames per second assumed"
    assert frames.info.notes == probe(path).notes == (said,)
    assert probe(path).to_dict()["notes"] == [said]


def test_a_decoder_that_lacks_a_format_is_not_asked():
    known = [format.name for format in av.Codec("libvpx-vp9", "w").video_formats]
    assert _takes("libvpx-vp9", "yuv420p")
    assert _takes("libvpx-vp9", "yuv420p10le") == ("yuv420p10le" in known)
    assert not _takes("libvpx-vp9", None)


@pytest.mark.parametrize("name", ["h264_bframes_copied.avi", "raw_10fps.h264", "vp9_10bit.mp4"])
def test_files_of_public_reports(name):
    path = Path(__file__).resolve().parents[2] / "shared" / "trials" / name
    if not path.exists():
        pytest.skip("the files of public reports are not here")
    frames = read_frames(path, Sampling(200), readers=["pyav"])
    assert frames.degraded is None
    assert np.abs(frames.times - frames.indices / 10).max() < 1e-3
    assert probe(path).seconds == pytest.approx(frames.info.duration_seconds)


def test_an_animated_webp_is_named(tmp_path):
    path = Path(__file__).resolve().parents[2] / "shared" / "trials" / "animated.webp"
    if not path.exists():
        pytest.skip("the files of public reports are not here")
    with pytest.raises(InputError, match="animated WebP is not supported"):
        read_frames(path, Sampling(2))


DAMAGED = {
    "h264.mp4": dict(options={"preset": "veryfast"}),
    "hevc.mkv": dict(codec="libx265", options=X265),
    "mpeg4.mp4": dict(codec="mpeg4", options={"bf": "2", "g": "20"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "mpeg2.ts": dict(codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "vp8.webm": dict(codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_give_one_result_in_every_run(tmp_path, name):
    path = make_clip(tmp_path / name, 60, **DAMAGED[name])
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 4, len(data) * 9 // 10, 11):
        data[place] ^= 0x55
    path.write_bytes(data)
    runs = [read_frames(path, Sampling(16), readers=["pyav"]) for _ in range(6)]
    assert len({frames.degraded for frames in runs}) == 1
    assert runs[0].degraded
    assert len({frames.pixels.tobytes() for frames in runs}) == 1
