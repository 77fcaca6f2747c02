# SPDX-License-Identifier: Apache-2.0
"""Damage that decoders take without a word is noticed, and sound files are not accused."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="test clips are written with PyAV")

import av
from clips import make_clip, read_numbers
from test_video_isolation import decoding, descriptors
from waiting import read_frames, until

from vidcomp import video
from vidcomp.errors import IncompleteVideo
from vidcomp.video import Frames, Sampling
from vidcomp.video.container.header import Header
from vidcomp.video.container.libav import demux
from vidcomp.video.damage import Decoded, decoders, inspect, structure
from vidcomp.video.damage.mpegts import broken_packets
from vidcomp.video.damage.structure import broken_chain
from vidcomp.video.probe import probe
from vidcomp.video.process.client import MOST_IDLE, start_worker, stop_workers
from vidcomp.video.readers.base import Source

EVERY = Sampling(frames=100_000)
X265 = "log-level=0:keyint=24:min-keyint=24:scenecut=0:"


def make_hevc(path: Path, frames: int = 72, extra: str = "", preset: str = "ultrafast", **more: object) -> Path:
    options = {"preset": preset, "x265-params": X265 + extra}
    return make_clip(path, frames, codec="libx265", options=options, **more)  # type: ignore[arg-type]


def damaged(path: Path, number: int, where: float = 0.5) -> Path:
    """A copy with some flipped bits in one packet, given by its place in decoding order."""
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][number]
        place = packet.pos + int(packet.size * where)
    data = bytearray(path.read_bytes())
    for offset in range(3):
        data[place + offset] ^= 0x55
    copy = path.with_name(f"damaged {path.name}")
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("extra", ["", "no-wpp=1:", "bframes=3:b-adapt=0:"])
def test_damaged_hevc_that_ffmpeg_takes_is_noticed(tmp_path: Path, extra: str) -> None:
    whole = make_hevc(tmp_path / "a.mp4", extra=extra)
    frames, truth = read_frames(damaged(whole, 30), EVERY), read_frames(whole, EVERY)
    assert truth.degraded is None and frames.missing is None
    assert not np.array_equal(frames.pixels, truth.pixels)  # wrong pictures without a word
    assert frames.degraded is not None and frames.degraded.startswith("damaged data (")
    assert frames.status == "degraded"


def test_with_strict_damaged_hevc_is_an_error(tmp_path: Path) -> None:
    path = damaged(make_hevc(tmp_path / "a.mp4"), 30)
    with pytest.raises(IncompleteVideo, match="damaged data"):
        read_frames(path, EVERY, strict=True)


SOUND: dict[str, Callable[[Path], Path]] = {
    "B-frames": lambda folder: make_hevc(folder / "a.mp4", extra="bframes=4:", preset="medium"),
    "open groups": lambda folder: make_hevc(folder / "a.mkv", extra="open-gop=1:bframes=4:", preset="medium"),
    "open groups of slices": lambda folder: make_hevc(folder / "a.mp4", 120, "open-gop=1:slices=2:", "medium"),
    "intra refresh": lambda folder: make_hevc(folder / "a.mp4", extra="intra-refresh=1:", preset="fast"),
    "ten bits": lambda folder: make_hevc(folder / "a.mp4", pix_fmt="yuv420p10le"),
    "full colour": lambda folder: make_hevc(folder / "a.mp4", pix_fmt="yuv444p"),
    "lossless": lambda folder: make_hevc(folder / "a.mp4", extra="lossless=1:"),
    "transport stream": lambda folder: make_hevc(folder / "a.ts"),
    "Matroska": lambda folder: make_clip(folder / "a.mkv", 60, sound_seconds=3),
    "WebM": lambda folder: make_clip(folder / "a.webm", 60, codec="libvpx", options={"deadline": "realtime"}),
    "AVI": lambda folder: make_clip(folder / "a.avi", 60, codec="mpeg4", sound_seconds=2),
    "AVI of JPEG": lambda folder: make_clip(folder / "a.avi", 60, codec="mjpeg", pix_fmt="yuvj420p", options={}),
    "VP8 with hidden pictures": lambda folder: make_clip(
        folder / "a.webm", 60, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}
    ),
    "H.264 in a transport stream": lambda folder: make_clip(folder / "a.ts", 60, sound_seconds=2),
    "MPEG-2 of a camera": lambda folder: make_clip(
        folder / "a.m2ts", 60, codec="mpeg2video", options={"bf": "2"}, sound_seconds=2
    ),
    "Flash": lambda folder: make_clip(folder / "a.flv", 60, sound_seconds=2),
    "AV1": lambda folder: make_clip(folder / "a.mp4", 60, codec="libsvtav1", options={"preset": "10"}),
    "GIF": lambda folder: make_clip(folder / "a.gif", 60, codec="gif", options={}, pix_fmt="rgb8"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_not_accused(tmp_path: Path, name: str) -> None:
    path = SOUND[name](tmp_path)
    for sampling in (EVERY, Sampling(5), Sampling(2)):
        assert read_frames(path, sampling, strict=True).degraded is None


def test_only_what_was_decoded_is_looked_at(tmp_path: Path) -> None:
    path = damaged(make_hevc(tmp_path / "a.mp4", 120), 110)
    assert read_frames(path, EVERY).degraded
    early = read_frames(path, Sampling(8, end=3.0))
    assert early.degraded is None and read_numbers(early.pixels) == early.indices.tolist()


JPEG: dict[str, Any] = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}}
SMALL: dict[str, tuple[str, dict[str, Any], int]] = {  # name, how it is made, and a packet that is not needed
    "each picture for itself": ("a.mov", JPEG, 30),
    "a picture that nothing refers to": (
        "a.ts",
        {"options": {"preset": "veryfast", "g": "60", "x264-params": "b-adapt=0:bframes=1:weightp=0"}},
        22,
    ),
    "a group of pictures": ("a.mp4", {"codec": "mpeg2video", "options": {"g": "12"}}, 15),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_is_decoded_whole(tmp_path: Path, name: str) -> None:
    file, how, number = SMALL[name]
    path = damaged(make_clip(tmp_path / file, 60, **how), number)
    frames = read_frames(path, Sampling(2), readers=["pyav"])
    assert frames.missing is None and read_numbers(frames.pixels) == [0, 59]
    assert frames.degraded is not None and frames.degraded.startswith("damaged data (")
    assert read_frames(path, Sampling(1, end=0.1), readers=["pyav"]).degraded is None


def test_vp8_that_runs_beyond_its_end_is_noticed(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.webm", 60, codec="libvpx", options={"deadline": "realtime", "g": "100"})
    frames, truth = read_frames(damaged(whole, 20), EVERY), read_frames(whole, EVERY)
    assert truth.degraded is None and frames.missing is None
    assert not np.array_equal(frames.pixels, truth.pixels)  # wrong pictures without a word
    assert frames.degraded == f"damaged data ({decoders.SPOILT})"


def test_vp8_without_its_library_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "load", lambda library: None)
    assert decoders.vp8_complaint([b"\0damaged"]) == ""


def test_vp8_before_the_first_key_picture_is_not_judged() -> None:
    assert decoders.vp8_complaint([b"\1\0\0\0"]) == ""
    assert decoders.vp8_complaint([b"\1\0\0\0", b"\0" * 16]) == decoders.LOST


def test_a_picture_that_is_lost_in_the_middle_is_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 60, codec="libsvtav1", options={"preset": "10"})
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][30]
        start, stop = packet.pos, packet.pos + packet.size
    data = bytearray(path.read_bytes())
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    frames = read_frames(path, EVERY)
    assert frames.degraded is not None and frames.degraded.startswith("damaged picture data (")


STREAM_DAMAGE: dict[str, tuple[str, Callable[[bytearray], object]]] = {
    "cut": ("it ends in mid-packet", lambda data: data.__delitem__(slice(-50, None))),
    "sync": ("some of its packets are no packets, or marked as faulty", lambda data: data.__setitem__(188 * 9, 0)),
    "faulty": (
        "some of its packets are no packets, or marked as faulty",
        lambda data: data.__setitem__(188 * 9 + 1, data[188 * 9 + 1] | 0x80),
    ),
    "services": ("the checksum of a table does not match", lambda data: data.__setitem__(data.index(b"FFmpeg"), 0)),
    "behind a table": ("what fills its packets up is damaged", lambda data: data.__setitem__(188 * 2 - 5, 0)),
    "in a field": ("what fills its packets up is damaged", lambda data: data.__setitem__(_filled(data), 0)),
    "a field": (
        "the header of a packet is longer than the packet",
        lambda data: data.__setitem__(_filled(data) // 188 * 188 + 4, 200),
    ),
}


def _filled(data: bytearray) -> int:
    """The last filling byte of the first adaptation field that has some."""
    for at in range(0, len(data), 188):
        if data[at + 3] & 0x20 and data[at + 4] > 20:
            return at + 4 + data[at + 4]
    raise AssertionError("no packet is filled up")


@pytest.mark.parametrize("name", STREAM_DAMAGE)
def test_a_transport_stream_with_a_broken_packet_is_noticed(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / "a.ts", 30)
    why, harm = STREAM_DAMAGE[name]
    data = bytearray(path.read_bytes())
    assert broken_packets(str(path), len(data)) == ""
    harm(data)
    path.write_bytes(data)
    assert broken_packets(str(path), len(data)) == why
    assert read_frames(path, EVERY).status == "degraded"


def test_a_stream_that_is_filled_with_zeros_is_left_in_peace(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.ts", 30)
    data = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).copy()
    for packet in data:
        if packet[3] & 0x20 and packet[4] > 1:
            held = 1 + 6 * bool(packet[5] & 0x10)
            packet[5 + held : 5 + packet[4]] = 0
    path.write_bytes(data.tobytes())
    assert broken_packets(str(path), data.nbytes) == ""
    path.write_bytes(b"\0" * 100 + data.tobytes())
    assert broken_packets(str(path), data.nbytes) == ""


@pytest.mark.parametrize("harm", ["cut", "kind", "length"])
def test_a_flash_video_whose_tags_do_not_fit_is_noticed(tmp_path: Path, harm: str) -> None:
    path = make_clip(tmp_path / "a.flv", 30)
    data = bytearray(path.read_bytes())
    assert broken_chain(str(path)) == "" and data[13] == 18
    last = len(data) - int.from_bytes(data[-4:], "big") - 4
    if harm == "cut":
        del data[-7:]
    elif harm == "kind":
        data[last] = 77
    else:
        data[-1] ^= 1
    path.write_bytes(data)
    why = {"cut": "it ends within a tag", "kind": f"there is no tag at byte {last}"}
    assert why.get(harm, "tags have another length than they state") in broken_chain(str(path))
    assert read_frames(path, EVERY).status == "degraded"


def test_a_muxer_that_tells_no_lengths_is_left_in_peace(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.flv", 30)
    data, at = bytearray(path.read_bytes()), 13
    while at < len(data):
        end = at + 11 + int.from_bytes(data[at + 1 : at + 4], "big")
        data[end : end + 4] = bytes(4)
        at = end + 4
    path.write_bytes(data)
    assert broken_chain(str(path)) == ""


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("sound", [0, 2])
def test_joined_transport_streams_are_whole(tmp_path: Path, codec: str, sound: int) -> None:
    how: dict[str, Any] = {"codec": codec, "options": {"bf": "2", "g": "12"}}
    parts = [make_clip(tmp_path / "a.ts", 60, **how), make_clip(tmp_path / "b.ts", 60, sound_seconds=sound, **how)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read_frames(path, EVERY)
    assert frames.degraded is None and read_numbers(frames.pixels) == [*range(60), *range(60)]


@pytest.mark.parametrize("before_key", [False, True])
def test_a_transport_stream_that_lost_packets_is_not_whole(tmp_path: Path, before_key: bool) -> None:
    path = make_clip(tmp_path / "a.ts", 60, options={"preset": "veryfast", "g": "20", "crf": "10"})
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size and packet.is_keyframe]
    data = bytearray(path.read_bytes())
    tables = data.rindex(b"\x47\x40\x00", 0, places[1]) // 188 * 188  # right before the second key frame
    lost = tables - 2 * 188 if before_key else places[1] + 5 * 188
    del data[lost : lost + 188]
    path.write_bytes(data)
    assert read_frames(path, EVERY).status == "degraded"


def test_packets_of_a_track_that_appears_later_are_stepped_over() -> None:
    class Container:
        left = iter([1, 2, None, 3, None, None, 4])

        def demux(self, _stream: object) -> Iterator[int]:
            for packet in self.left:
                if packet is None:
                    raise IndexError("list index out of range")
                yield packet

    assert list(demux(Container(), None)) == [1, 2, 3, 4]


def test_an_inspection_that_ends_badly_is_reported(tmp_path: Path) -> None:
    clip = make_hevc(tmp_path / "a.mp4", 300, size=(640, 480))
    for _ in range(20):  # it may be over before it is killed
        frames = video.read_frames(clip, Sampling(2))
        assert frames.inspection is not None
        for pid in decoding():
            os.kill(pid, signal.SIGKILL)
        if frames.wait().degraded is not None:
            break
    assert frames.degraded == "the inspection for damage did not end well (crashed (SIGKILL))"
    assert read_numbers(frames.pixels) == [0, 299]


def test_nothing_waits_for_an_inspection_that_hangs(tmp_path: Path) -> None:
    clip = make_hevc(tmp_path / "a.mp4", 300, size=(640, 480))
    for _ in range(20):  # it may be over before it is stopped
        frames = video.read_frames(clip, Sampling(2), deadline_seconds=36_000)
        for pid in decoding():
            os.kill(pid, signal.SIGSTOP)
        if frames.pending:
            break
        stop_workers()
    try:
        assert (frames.status, frames.degraded, frames.pending) == ("ok", None, True)
        assert "<inspection goes on>" in repr(frames) and frames.to_dict()["sampled"] == 2
        assert read_numbers(read_frames(clip, Sampling(2)).pixels) == [0, 299]  # by another worker
    finally:
        for pid in decoding():
            os.kill(pid, signal.SIGCONT)
    assert frames.wait() is frames and (frames.status, frames.pending) == ("ok", False)
    assert "degraded=None" in repr(frames)


def test_workers_may_be_stopped_while_an_inspection_goes_on(tmp_path: Path) -> None:
    clip = make_hevc(tmp_path / "a.mp4", 300, size=(640, 480))
    for _ in range(20):  # it may be over before it is stopped
        frames = video.read_frames(clip, Sampling(2))
        for pid in decoding():
            os.kill(pid, signal.SIGSTOP)
        stop_workers()
        start_worker()
        assert read_numbers(read_frames(clip, Sampling(2)).pixels) == [0, 299]
        if frames.degraded is not None:
            break
    assert frames.degraded == "the inspection for damage did not end well (the decoding processes were stopped)"


def test_what_an_inspection_found_is_known_without_waiting(tmp_path: Path) -> None:
    frames = video.read_frames(damaged(make_hevc(tmp_path / "a.mp4"), 30), Sampling(72))
    assert frames.missing is None
    until(lambda: not frames.pending)
    assert frames.status == "degraded" and (frames.degraded or "").startswith("damaged data (")


def test_frames_whose_inspection_goes_on_are_forgotten(tmp_path: Path) -> None:
    path = make_hevc(tmp_path / "a.mp4", 300, size=(640, 480))
    read_frames(path, Sampling(2))  # the worker is there
    before = descriptors()
    for _ in range(3):
        video.read_frames(path, Sampling(2))
    gc.collect()
    more = MOST_IDLE - 1  # workers that may wait beside the first; three descriptors lead to each
    assert len(decoding()) <= 1 + more and descriptors() <= before + 3 * more


def test_the_worker_of_an_inspection_that_nobody_asks_for_is_used_again(tmp_path: Path) -> None:
    path = make_hevc(tmp_path / "a.mp4")
    kept = []
    for _ in range(6):
        kept.append(video.read_frames(path, Sampling(2)))
        until(lambda: not kept[-1].pending)
    assert len(decoding()) <= MOST_IDLE


def test_a_pickled_answer_has_waited(tmp_path: Path) -> None:
    frames = video.read_frames(damaged(make_hevc(tmp_path / "a.mp4"), 30), Sampling(72))
    copy: Frames = pickle.loads(pickle.dumps(frames))
    assert copy.inspection is None and copy.degraded == frames.degraded is not None
    assert np.array_equal(copy.pixels, frames.pixels)


def test_without_the_second_decoder_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(decoders.DE265, packages=("no_such_package",), system=("no-such-library.so",))
    monkeypatch.setattr(decoders, "DE265", absent)
    assert decoders.load(absent) is None
    assert decoders.hevc_complaint([b"\0\0\1\x26\x01\xaf"]) == ""


def test_checksums_of_matroska_are_compared(tmp_path: Path) -> None:
    path = damaged(make_clip(tmp_path / "a.mkv", 60, codec="libvpx"), 40)  # its decoder says nothing
    frames = read_frames(path, EVERY)
    assert frames.degraded is not None and "the checksum at byte" in frames.degraded


def test_a_checksum_is_noticed_that_no_picture_depends_on(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mkv", 60)
    data = bytearray(whole.read_bytes())
    data[data.index(b"Lavf")] ^= 1  # the name of the program that wrote it
    whole.write_bytes(data)
    frames = read_frames(whole, EVERY)
    assert read_numbers(frames.pixels) == list(range(60))
    assert frames.degraded is not None and "the checksum at byte" in frames.degraded


def test_large_matroska_files_are_compared_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "SMALL_BYTES", 0)
    monkeypatch.setattr("vidcomp.video.damage.inspection.SMALL_BYTES", 0)
    path = make_clip(tmp_path / "a.mkv", 60)
    source = Source(str(path), Header(kind="matroska"))
    assert inspect(source, Decoded([0], 60)) == ("", None)
    _, look = inspect(source, Decoded([0], 60), thorough=True)
    assert look is not None and look() == ""
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    assert "checksum" in look()


CONTRADICTIONS = {
    "the parts of its header do not fit together": ((16, 3), (20, ord("x")), (92, 8)),
    "its header counts other tracks than it describes": ((56, 2),),
    "its header tells an impossible number of bits per pixel": ((187, 40),),
    "its header tells two picture sizes": ((64, 7), (68, 9)),
}


@pytest.mark.parametrize(
    ("why", "at", "value"), [(why, *where) for why, places in CONTRADICTIONS.items() for where in places]
)
def test_an_avi_header_that_contradicts_itself_is_noticed(tmp_path: Path, why: str, at: int, value: int) -> None:
    path = make_clip(tmp_path / "a.avi", 30, codec="mpeg4", options={"bf": "0"})
    data = bytearray(path.read_bytes())
    assert data[24:28] == b"avih" and data[172:176] == b"\x28\0\0\0"
    data[at] = value
    path.write_bytes(data)
    frames = read_frames(path, EVERY)
    assert read_numbers(frames.pixels) == list(range(30))
    assert frames.degraded == f"damaged data ({why})"
    assert probe(path).doubt == why


def test_long_streams_are_looked_at_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidcomp.video.damage.mpegts.BLOCK", 7)
    path = make_clip(tmp_path / "a.ts", 30)
    data = bytearray(path.read_bytes())
    assert broken_packets(str(path), len(data)) == ""
    data[188 * 20] = 0
    path.write_bytes(data)
    assert broken_packets(str(path), len(data)) != "" == broken_packets(str(path), 188 * 14)
