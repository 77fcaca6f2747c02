# SPDX-License-Identifier: Apache-2.0
"""Files that are whole and unusual: each was once read wrongly without a word, or called damaged."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="test clips are written with PyAV")

from clips import frame_image, make_clip, make_cut, make_tracks, read_numbers, remux, set_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import read_frames

from vidcomp.video import Frames, Sampling
from vidcomp.video.container.header import read_edits, turn_of
from vidcomp.video.probe import probe
from vidcomp.video.sampling import window

EVERY = Sampling(frames=100_000)


def sound(path: Path, sampling: Sampling = EVERY) -> Frames:
    frames = read_frames(path, sampling, strict=True)
    assert not probe(path).doubt
    return frames


def test_several_tracks_are_judged_by_the_one_that_is_read(tmp_path: Path) -> None:
    path = make_tracks(tmp_path / "a.mp4", (50, 0, 25), (150, 1000, 25), default=0)  # the other one is longer
    frames = sound(path)
    assert read_numbers(frames.pixels) == list(range(50))
    assert probe(path).frames_total == 50


MIRRORS = {
    "swapped": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "transposed and turned": ((0, -1, -1, 0), lambda image: image.transpose(1, 0, 2)[::-1, ::-1]),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_mirrored_pictures_are_shown_as_players_show_them(tmp_path: Path, name: str) -> None:
    matrix, shown = MIRRORS[name]
    stored = read_frames(make_clip(tmp_path / "stored.mp4", 3), EVERY).pixels
    path = set_matrix(tmp_path / "a.mp4", tmp_path / "stored.mp4", *matrix)
    frames = sound(path)
    assert np.array_equal(frames.pixels, np.stack([shown(image) for image in stored]))
    assert (probe(path).width, probe(path).height) == frames.pixels.shape[2:0:-1]


def test_an_odd_angle_is_left_alone(tmp_path: Path) -> None:
    stored = make_clip(tmp_path / "stored.mp4", 3)
    path = set_matrix(tmp_path / "a.mp4", stored, 0.7071, 0.7071, -0.7071, 0.7071)
    for reader in ("decord", "pyav"):
        assert np.array_equal(
            read_frames(path, EVERY, readers=[reader]).pixels, read_frames(stored, EVERY, readers=[reader]).pixels
        )


def test_turns_and_mirrors_of_a_matrix() -> None:
    assert turn_of((65536, 0, 0, 0, 65536)) == (0, False)
    assert turn_of((0, 65536, 0, -65536, 0)) == (90, False)
    assert turn_of((-65536, 0, 0, 0, 65536)) == (0, True)
    assert turn_of((400, 65536, 0, -65536, 400)) == (90, False)  # rounded by whoever wrote it
    assert turn_of((0, 0, 0, 0, 0)) == (0, False)


@pytest.mark.parametrize("width", [2, 4, 16, 48, 50])
def test_narrow_pictures(tmp_path: Path, width: int) -> None:
    path = make_clip(tmp_path / "a.mkv", 5, size=(width, 34), codec="ffv1", options={}, pix_fmt="bgr0")
    frames = sound(path)
    assert np.array_equal(frames.pixels, np.stack([frame_image(number, (width, 34)) for number in range(5)]))


def test_pictures_that_are_not_to_be_shown_do_not_count(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "all.webm", 60, codec="libvpx", options={"b": "1M", "g": "10", "cpu-used": "8"})

    def hide(number: int, packet: Any) -> Any:
        import av

        data = bytearray(packet)
        data[0] &= 0xEF if number % 7 == 3 else 0xFF
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        hidden.is_keyframe = packet.is_keyframe
        return hidden

    path = remux(tmp_path / "some.webm", source, hide)
    shown = [number for number in range(60) if number % 7 != 3]
    for count in (2, 3, 5, 1000):
        frames = sound(path, Sampling(count))
        assert frames.info.frames_total == len(shown)
        assert read_numbers(frames.pixels) == [shown[index] for index in frames.indices]
    assert probe(path).frames_total == len(shown)


@settings(max_examples=20)
@given(start=st.floats(0, 6), length=st.floats(0.1, 6), count=st.integers(1, 12))
def test_fast_seeking_stays_between_start_and_end(long_clip: Path, start: float, length: float, count: int) -> None:
    exact = read_frames(long_clip, Sampling(100_000, start=start, end=start + length)).indices
    fast = read_frames(long_clip, Sampling(count, start=start, end=start + length, seek="fast")).indices
    assert exact[0] <= fast[0] and fast[-1] <= exact[-1]


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"preset": "ultrafast", "x264-params": "keyint=12:scenecut=0"}
    return make_clip(tmp_path_factory.mktemp("long") / "a.mp4", 300, size=(64, 48), options=options)


def test_a_gap_between_two_edits_is_said(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", 100, options={"g": "100", "preset": "fast"})
    data = bytearray(make_cut(tmp_path / "cut.mp4", whole, start=1.0, stop=3.0).read_bytes())
    at = data.index(b"elst") + 4
    count = int.from_bytes(data[at + 4 : at + 8], "big")
    assert count == 1 and data[at] == 0  # one edit; the free room behind it is taken by two more
    entry = bytes(data[at + 8 : at + 20])
    length = int.from_bytes(entry[:4], "big") // 3
    rows = [(length, 0), (length, 0xFFFFFFFF), (length, int.from_bytes(entry[4:8], "big"))]
    body = b"".join(a.to_bytes(4, "big") + b.to_bytes(4, "big") + entry[8:] for a, b in rows)
    start = data.index(b"edts") - 4
    new = (28 + 24 + 8).to_bytes(4, "big") + b"edts" + (28 + 24).to_bytes(4, "big") + b"elst" + bytes(4)
    new += (3).to_bytes(4, "big") + body
    old = int.from_bytes(data[start : start + 4], "big")
    grown = len(new) - old
    for box in (b"moov", b"trak"):  # which hold the list, and lie behind the pictures
        place = data.index(box) - 4
        size = int.from_bytes(data[place : place + 4], "big") + grown
        data[place : place + 4] = size.to_bytes(4, "big")
    data[start : start + old] = new
    path = tmp_path / "gap.mp4"
    path.write_bytes(data)
    assert "shows nothing for a while" in (read_frames(path, Sampling(4)).degraded or "")


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(100, 0, 1 << 16)], ""),
        ([(50, -1, 1 << 16), (100, 0, 1 << 16), (100, 9, 1 << 16)], ""),
        ([(100, 0, 1 << 16), (50, -1, 1 << 16)], "shows nothing for a while"),  # FFmpeg shows pictures there
        ([(100, 0, 2 << 16)], "another speed"),
        ([(100, 0, 1 << 16), (30, 500, 0)], "another speed"),  # stands still
    ],
)
def test_what_makes_the_times_of_an_edit_list_uncertain(
    version: int, entries: list[tuple[int, int, int]], said: str
) -> None:
    form = ">Qqi" if version else ">Iii"
    body = struct.pack(">BxxxI", version, len(entries)) + b"".join(struct.pack(form, *entry) for entry in entries)
    shown, uneven = read_edits(body)
    assert shown == [length for length, start, _ in entries if start >= 0]
    assert said in uneven and bool(said) == bool(uneven)


def test_the_turn_of_the_whole_movie_counts(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "stored.mp4", 10, turned=1)
    data = bytearray(source.read_bytes())
    at = data.index(b"mvhd") + 4 + 36
    data[at : at + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    assert probe(path).rotation == 90
    assert read_numbers(sound(path).pixels) == list(range(10))


def test_packets_without_a_picture_are_not_counted(tmp_path: Path) -> None:
    import av

    def empty(moment: int) -> bytes:  # a picture that is "not coded": the one before stays
        bits = f"0101{moment % 25:05b}10"
        bits += "0" + "1" * (-(len(bits) + 1) % 8)
        return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    source, path = make_clip(tmp_path / "a.mp4", 60, codec="mpeg4", options={"bf": "0", "g": "20"}), tmp_path / "b.mp4"
    with av.open(str(source)) as file, av.open(str(path), "w") as output:
        stream, place = output.add_stream_from_template(file.streams.video[0]), 0
        for number, packet in enumerate(p for p in file.demux(video=0) if p.size):
            for piece, key in [(bytes(packet), packet.is_keyframe), *([(b"", False)] if number in (7, 30) else [])]:
                made = av.Packet(piece or empty(place))
                made.stream, made.is_keyframe, made.time_base, made.duration = stream, key, Fraction(1, 25), 1
                made.pts = made.dts = place
                output.mux(made)
                place += 1
    frames = read_frames(path, EVERY, strict=True)
    assert read_numbers(frames.pixels) == list(range(60))
    assert read_frames(path, Sampling(2)).info.frames_total == 60
    assert [round(float(time) * 25) for time in frames.times[[0, 7, 8, 31, 59]]] == [0, 7, 9, 33, 61]


def test_a_file_without_a_list_of_keys_is_read_from_its_start(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 120, codec="mpeg4", options={"bf": "0", "g": "60"})
    path = tmp_path / "b.mp4"
    path.write_bytes(source.read_bytes().replace(b"stss", b"free"))
    frames = sound(path, Sampling(5))
    assert read_numbers(frames.pixels) == frames.indices.tolist()
    assert len(probe(path).keys) == 1


def test_several_descriptions_of_the_codec_are_not_for_a_reader_that_takes_the_first(tmp_path: Path) -> None:
    data = bytearray(make_clip(tmp_path / "a.mp4", 60, options={"g": "10"}).read_bytes())
    at = data.index(b"stsd") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    entry = bytes(data[at + 16 : at + size])
    data[at + 12 : at + 16] = (2).to_bytes(4, "big")
    data[at + size : at + size] = entry
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):  # which hold it, behind the pictures
        place = data.index(box) - 4
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(entry)).to_bytes(4, "big")
    path = tmp_path / "b.mp4"
    path.write_bytes(data)
    frames = sound(path, Sampling(4))
    assert frames.info.reader == "pyav"
    assert read_numbers(frames.pixels) == frames.indices.tolist()


def test_a_frame_whose_time_is_the_end_counts(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 100, fps=10, size=(64, 48))
    for end in range(1, 100):
        assert window(np.arange(100) * 0.1, Sampling(start=0.05, end=end / 10), 10.0) == (0, end + 1)
    assert sound(path, Sampling(2, start=7.0, end=7.3)).indices.tolist() == [70, 73]


def test_moments_are_met_at_any_rate(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 300, fps=5000, size=(64, 48))
    assert sound(path, Sampling(3, start=0.02)).indices[0] == 100


def test_a_program_stream_of_small_pictures_has_a_constant_rate(tmp_path: Path) -> None:
    how: dict[str, Any] = {"codec": "mpeg2video", "options": {"g": "1", "bf": "1", "q:v": "3"}}
    frames = read_frames(make_clip(tmp_path / "a.vob", 30, fps=24, size=(128, 96), **how), EVERY)
    assert frames.degraded is None and read_numbers(frames.pixels) == list(range(30))
    assert frames.exact_times == tuple(Fraction(number, 24) for number in range(30))


def test_times_that_a_program_stream_does_not_tell(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mpg", 150, codec="mpeg4", options={"bf": "2", "g": "20"})
    for count in (150, 8):
        frames = read_frames(path, Sampling(count))
        assert frames.degraded is None and read_numbers(frames.pixels) == frames.indices.tolist()


def test_an_avi_may_leave_pictures_standing(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "all.avi", 60, codec="mpeg4", options={"bf": "0", "g": "10"})

    def wait(number: int, packet: Any) -> Any:
        packet.pts = packet.dts = packet.pts + 10 * (number >= 30)
        return packet

    path = remux(tmp_path / "gap.avi", source, wait)
    assert read_numbers(sound(path).pixels) == list(range(60))


def test_a_cut_gif_is_cut_short(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.gif", 12, codec="gif", options={}, pix_fmt="rgb8")
    assert sound(whole).info.frames_total == 12
    cut = tmp_path / "cut.gif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert read_frames(cut, EVERY).degraded == "damaged picture data (the file is cut short)"
    stray = tmp_path / "stray.gif"
    stray.write_bytes(whole.read_bytes()[:-1] + b"\0;")
    assert sound(stray).info.frames_total == 12


def test_a_cut_y4m_is_cut_short(tmp_path: Path) -> None:
    picture = b"FRAME\n" + bytes(64 * 48 * 3 // 2)
    whole = b"YUV4MPEG2 W64 H48 F25:1 Ip C420jpeg\n" + 10 * picture
    path = tmp_path / "a.y4m"
    path.write_bytes(whole)
    assert sound(path).info.frames_total == 10
    path.write_bytes(whole[:-100])
    frames = read_frames(path, EVERY)
    assert (frames.info.frames_total, frames.degraded) == (9, "damaged picture data (the last picture is cut short)")


def test_what_is_appended_to_an_mp4_is_not_a_missing_part(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 20)
    path.write_bytes(path.read_bytes() + b"TAG" + bytes([200]) * 125)
    sound(path)


def test_an_edit_longer_than_its_media_misses_nothing(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 50)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = (20_000).to_bytes(4, "big")
    path.write_bytes(data)
    assert read_numbers(sound(path).pixels) == list(range(50))


def test_steps_of_few_ticks_differ(tmp_path: Path) -> None:
    steps = np.array([0.03, 0.05] * 15).cumsum() - 0.03
    path = make_clip(tmp_path / "a.gif", 30, codec="gif", options={}, pix_fmt="rgb8", times=steps.tolist())
    assert probe(path).variable_rate
    assert not probe(make_clip(tmp_path / "b.mkv", 90, fps=30)).variable_rate


def test_a_cut_wmv_is_cut_short(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.wmv", 50, codec="wmv2", options={})
    assert sound(whole).info.frames_total == 50
    cut = tmp_path / "cut.wmv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert read_frames(cut, EVERY).degraded
