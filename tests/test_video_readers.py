# SPDX-License-Identifier: Apache-2.0
"""One contract for every reader: each frame returned is the one it says, at the time it says, or the reader refuses.

The truth is the number burned into every frame, and PyAV's presentation times.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="test clips are written with PyAV")

from clips import make_clip, make_cut, make_sound, make_tracks, make_twins, read_numbers, remux, rotate
from waiting import read_frames

from vidcomp.errors import IncompleteVideo, InputError
from vidcomp.video import READERS, Frames, Sampling
from vidcomp.video.selftest import LEVELS, SAMPLE, reader_fault

EVERY = Sampling(frames=100_000)
OPEN_GOP = "open-gop=1:keyint=24:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"


def uneven(count: int) -> list[float]:
    """Presentation seconds with steps from 20 ms to half a second."""
    draw = random.Random(1)
    times = [0.0]
    while len(times) < count:
        times.append(round(times[-1] + draw.choice([0.02, 0.04, 0.1, 0.5]), 3))
    return times


def cut(path: Path) -> Path:
    source = make_clip(path.with_name("whole.mp4"), 240, fps=30, options={"g": "999", "preset": "veryfast"})
    return make_cut(path, source, start=2.2, stop=7.0)


def twins(path: Path) -> Path:
    options = {"bf": "0", "g": "20", "preset": "veryfast"}
    return make_twins(path, make_clip(path.with_name("single.mkv"), 60, options=options))


def quarter_turns(path: Path, turns: int) -> Path:
    source = make_clip(path.with_name(f"stored{turns}.mp4"), 30, turned=turns)
    return rotate(path, source, 90 * turns)


# file name -> (maker, first number, count, readers that must give the truth; the others may refuse)
ALL = ("pyav", "decord", "opencv")
OTHERS = ("pyav", "opencv")
Maker = Callable[[Path], Path]
CLIPS: dict[str, tuple[Maker, int, int, tuple[str, ...]]] = {
    "plain.mp4": (lambda p: make_clip(p, 60), 0, 60, ALL),
    "one.mp4": (lambda p: make_clip(p, 1), 0, 1, ALL),
    "fragmented.mp4": (
        lambda p: make_clip(
            p, 60, size=(322, 242), options={"g": "25"}, container={"movflags": "frag_keyframe+empty_moov"}
        ),
        0,
        60,
        OTHERS,  # decord begins fragmented files elsewhere
    ),
    "open_gop.mp4": (lambda p: make_clip(p, 150, options={"x264-params": OPEN_GOP, "preset": "fast"}), 0, 150, ALL),
    "open_gop.mkv": (lambda p: make_clip(p, 150, options={"x264-params": OPEN_GOP, "preset": "fast"}), 0, 150, ALL),
    # FFmpeg guesses the times of B-frames in an AVI, and names the wrong pictures.
    "guessed.avi": (
        lambda p: make_clip(p, 90, options={"x264-params": "bframes=2:b-adapt=0:b-pyramid=none", "preset": "fast"}),
        0,
        90,
        OTHERS,
    ),
    "turned.mkv": (lambda p: remux(p, quarter_turns(p.with_name("turned.mp4"), 1)), 0, 30, OTHERS),
    "tracks.mp4": (lambda p: make_tracks(p, (50, 0, 50), (50, 1000, 25), default=1), 1000, 50, ("pyav",)),
    "tracks.mkv": (lambda p: make_tracks(p, (50, 0, 50), (50, 1000, 25), default=1), 1000, 50, ("pyav",)),
    "open_gop.ts": (lambda p: make_clip(p, 100, options={"x264-params": OPEN_GOP, "preset": "fast"}), 0, 100, OTHERS),
    "open_hevc.mp4": (
        lambda p: make_clip(
            p,
            100,
            codec="libx265",
            options={"x265-params": "open-gop=1:keyint=24:min-keyint=12:bframes=4:log-level=0", "preset": "ultrafast"},
        ),
        0,
        100,
        OTHERS,  # decord counts pictures that are not shown
    ),
    "ten_bit.mkv": (
        lambda p: make_clip(
            p, 30, codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=0", "preset": "ultrafast"}
        ),
        0,
        30,
        OTHERS,
    ),
    "vp8.webm": (
        lambda p: make_clip(
            p, 30, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "16", "b": "500k"}
        ),
        0,
        30,
        ALL,
    ),
    "vp9.webm": (
        lambda p: make_clip(p, 60, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
        0,
        60,
        OTHERS,  # decord gives wrong pictures of damaged VP9 without a word
    ),
    "variable.mp4": (lambda p: make_clip(p, 100, times=uneven(100), options={"g": "30"}), 0, 100, ALL),
    "long_sound.mkv": (lambda p: make_clip(p, 50, sound_seconds=5), 0, 50, ALL),
    "long_sound.mp4": (lambda p: make_clip(p, 50, sound_seconds=5), 0, 50, ALL),
    "twins.mkv": (twins, 0, 60, ALL),
    "cut.mp4": (cut, 66, 144, OTHERS),
    "turned90.mp4": (lambda p: quarter_turns(p, 1), 0, 30, ALL),
    "turned270.mp4": (lambda p: quarter_turns(p, 3), 0, 30, ALL),
    "interlaced.mp4": (lambda p: make_clip(p, 60, options={"x264-params": "tff=1"}), 0, 60, ("pyav",)),
    "interlaced.ts": (lambda p: make_clip(p, 60, options={"x264-params": "tff=1", "g": "12"}), 0, 60, ("pyav",)),
    "av1.mp4": (lambda p: make_clip(p, 40, codec="libsvtav1", options={"preset": "12"}), 0, 40, ("pyav",)),
    "every_key.mov": (lambda p: make_clip(p, 30, codec="mjpeg", pix_fmt="yuvj420p", options={}), 0, 30, OTHERS),
    "odd_size.mkv": (
        lambda p: make_clip(p, 30, size=(323, 241), codec="ffv1", pix_fmt="yuv444p", options={}),
        0,
        30,
        OTHERS,
    ),
    "b_frames.avi": (lambda p: make_clip(p, 60, codec="mpeg4", options={"bf": "2", "q": "5"}), 0, 60, OTHERS),
    "plain.mpg": (lambda p: make_clip(p, 60, codec="mpeg2video", options={"bf": "2", "g": "15"}), 0, 60, OTHERS),
    "plain.flv": (lambda p: make_clip(p, 60), 0, 60, OTHERS),
    "pictures.gif": (lambda p: make_clip(p, 20, fps=10, codec="gif", pix_fmt="rgb8", options={}), 0, 20, OTHERS),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = CLIPS[name][0](folder / name)
        return made[name]

    return get


def true_times(path: Path) -> np.ndarray:
    """Presentation seconds of every frame by PyAV, from 0.0."""
    import av

    with av.open(str(path), metadata_errors="ignore") as source:
        frames = source.decode(source.streams.best("video"))
        times = sorted(float(frame.time) for frame in frames)  # an AVI's come in a wrong order
    return np.array(times) - times[0]


def check(frames: Frames, path: Path, first: int, count: int) -> None:
    times = true_times(path)
    assert frames.info.frames_total == count == len(times)
    np.testing.assert_allclose(frames.times, times[frames.indices], atol=1e-3)
    assert read_numbers(frames.pixels) == (first + frames.indices).tolist()
    assert frames.degraded is None
    assert frames.pixels.shape[1:3] == (frames.info.height, frames.info.width)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("reader", READERS)
def test_every_frame_is_true_or_the_reader_refuses(clip: Callable[[str], Path], reader: str, name: str) -> None:
    _, first, count, must = CLIPS[name]
    path = clip(name)
    try:
        frames = read_frames(path, EVERY, readers=[reader])
    except InputError:
        assert reader not in must
        return
    assert frames.info.reader == reader
    check(frames, path, first, count)


@pytest.mark.parametrize(
    "name", ["open_gop.mp4", "open_gop.mkv", "open_hevc.mp4", "variable.mp4", "cut.mp4", "one.mp4"]
)
def test_sampled_frames_are_true(clip: Callable[[str], Path], name: str) -> None:
    _, first, count, must = CLIPS[name]
    path = clip(name)
    frames = read_frames(path, Sampling(9))
    assert frames.info.reader == must[0]
    assert len(frames) == min(9, count)
    assert (frames.indices[0], frames.indices[-1]) == (0, count - 1)
    check(frames, path, first, count)


def test_duration_covers_the_last_frame(clip: Callable[[str], Path]) -> None:
    info = read_frames(clip("plain.mp4"), Sampling(2)).info
    assert info.duration_seconds == pytest.approx(2.4, abs=1e-3)
    assert info.fps == pytest.approx(25, abs=0.01)
    assert (info.width, info.height) == (320, 240)
    assert read_frames(clip("one.mp4"), Sampling(4)).info.duration_seconds == pytest.approx(0.04, abs=1e-3)


@pytest.mark.parametrize("reader", READERS)
def test_shrinking_keeps_the_aspect_and_the_content(clip: Callable[[str], Path], reader: str) -> None:
    frames = read_frames(clip("plain.mp4"), Sampling(5), readers=[reader], max_side=160)
    assert frames.pixels.shape == (5, 120, 160, 3)
    assert (frames.info.width, frames.info.height) == (320, 240)
    assert read_numbers(frames.pixels) == frames.indices.tolist()
    assert read_frames(clip("plain.mp4"), Sampling(1), max_side=1000).pixels.shape == (1, 240, 320, 3)


def test_readers_agree_on_the_pixels(clip: Callable[[str], Path]) -> None:
    first, *others = (read_frames(clip("open_gop.mp4"), Sampling(7), readers=[reader]) for reader in READERS)
    for other in others:
        assert np.array_equal(first.indices, other.indices)
        assert np.abs(first.pixels.astype(int) - other.pixels.astype(int)).mean() < 1.0


def test_a_still_scene_is_not_mistaken_for_copies(tmp_path: Path) -> None:
    import av

    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(50):
            image = np.full((64, 64, 3), 90, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    frames = read_frames(path, Sampling(6))
    assert (frames.info.reader, frames.info.frames_total, frames.degraded) == ("pyav", 50, None)


@pytest.mark.parametrize("name", ["plain.mp4", "open_gop.mkv", "b_frames.avi"])
def test_a_truncated_file_says_what_is_missing(clip: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    source = clip(name)
    if name == "plain.mp4":
        source = make_clip(tmp_path / "fast.mp4", 60, container={"movflags": "faststart"})
    whole = source.read_bytes()
    path = tmp_path / f"cut_{name}"
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    frames = read_frames(path, Sampling(4))
    seconds = CLIPS[name][2] / 25
    assert frames.degraded is not None
    assert f"of {seconds:.1f} s" in frames.degraded
    assert frames.info.duration_seconds < seconds
    with pytest.raises(IncompleteVideo) as caught:
        read_frames(path, Sampling(4), strict=True)
    assert (caught.value.code, caught.value.status) == ("incomplete", 3)


@pytest.mark.parametrize("reader", READERS)
def test_pictures_lost_in_the_middle_are_counted_out(tmp_path: Path, reader: str) -> None:
    """The container is whole and promises 90 pictures, some of which do not decode: the others keep their numbers."""
    import av

    path = make_clip(tmp_path / "holes.mkv", 90, options={"g": "30", "bf": "0", "preset": "veryfast"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        lost = [bytes(packet) for number, packet in enumerate(file.demux(video=0)) if number in (40, 41, 42)]
    for packet in lost:
        start = data.index(packet)
        data[start : start + len(packet)] = bytes(len(packet))
    path.write_bytes(data)
    try:
        frames = read_frames(path, EVERY, readers=[reader])
    except InputError:
        assert reader == "decord"
        return
    numbers = read_numbers(frames.pixels)
    assert numbers[:40] == list(range(40))
    if reader == "opencv":  # ends at the first picture that it cannot decode
        assert frames.degraded and frames.info.frames_total in (40, 41)
        return
    assert numbers[-30:] == list(range(60, 90))
    assert frames.info.frames_total == len(frames) < 90
    assert frames.degraded is not None


def test_flipped_bits_in_vp9_are_noticed(clip: Callable[[str], Path], tmp_path: Path) -> None:
    """FFmpeg's own decoder gives wrong pictures without a word."""
    whole, path = read_frames(clip("vp9.webm"), EVERY), tmp_path / "flipped.webm"
    data = bytearray(clip("vp9.webm").read_bytes())
    for place in range(len(data) // 3, len(data) - 1000, 3000):
        data[place] ^= 16
    path.write_bytes(data)
    frames = read_frames(path, EVERY)
    assert frames.degraded
    assert read_numbers(frames.pixels) == read_numbers(whole.pixels)[: len(frames)]


@pytest.mark.parametrize("name", ["sound.m4a", "sound.mka"])
def test_sound_alone_has_its_own_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_frames(make_sound(tmp_path / name), Sampling(4))
    assert caught.value.code == "no_video_stream"


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.mp4"
    source = make_sound(tmp_path / "plain.m4a")
    with av.open(str(source)) as sound, av.open(str(path), "w") as output:
        track = output.add_stream_from_template(sound.streams.audio[0])
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        output.mux(cover.encode(av.VideoFrame(64, 64, "yuvj420p")))
        output.mux(cover.encode())
        for packet in sound.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                output.mux(packet)
    with pytest.raises(InputError) as caught:
        read_frames(path, Sampling(4))
    assert caught.value.code == "no_video_stream"


def test_a_codec_that_no_reader_knows_is_named(tmp_path: Path, clip: Callable[[str], Path]) -> None:
    path = tmp_path / "strange.mp4"
    path.write_bytes(clip("plain.mp4").read_bytes().replace(b"avc1", b"zzz9"))
    with pytest.raises(InputError) as caught:
        read_frames(path, Sampling(4))
    assert caught.value.code in {"unsupported_codec", "no_frames", "unreadable"}


@pytest.mark.parametrize("reader", READERS)
def test_the_bundled_clip_tells_a_reader_that_works_from_one_that_does_not(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reader_fault(reader) == ""
    assert SAMPLE.stat().st_size < 4096
    monkeypatch.setattr("vidcomp.video.selftest.LEVELS", LEVELS[::-1])
    assert "brightness" in reader_fault(reader)
    assert "KeyError" in reader_fault("fake_readers:Raising")
