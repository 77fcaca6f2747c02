# SPDX-License-Identifier: Apache-2.0
"""Bad input: each kind has its own code, one line per part, and no decoder is started for most of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="test clips are written with PyAV")

from clips import make_clip, patch_size, read_numbers, remux
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.errors import InputError, UsageError
from vidcomp.video import READERS, Sampling, read_frames
from vidcomp.video.container.file_bytes import FileBytes
from vidcomp.video.container.header import Header, read_header
from vidcomp.video.files import display_name

FOUR = Sampling(4)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("good") / "good.mp4", 30)


def refused(path: Path | str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_frames(path, FOUR)
    error = caught.value
    assert error.status == 3
    for part in (error.what, error.why, error.hint):
        assert part
        assert "\n" not in part
    return error


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    dangling = tmp_path / "dangling.mp4"
    dangling.symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refused(tmp_path / "missing.mp4").code == "missing"
    assert refused(tmp_path / ("n" * 300)).code == "missing"
    assert refused(dangling).why == "the symbolic link points to nothing"
    assert refused(loop).code == "symlink_loop"
    assert refused(tmp_path).code == "directory"
    assert refused(tmp_path / "pipe.mp4").code == "not_regular"
    assert refused("/dev/null").code == "not_regular"
    assert refused("bad\0name.mp4").code == "bad_name"
    assert refused("https://example.org/a.mp4").code == "address"


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket names are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.mp4")
        assert "socket" in refused(tmp_path / "socket.mp4").why


def test_no_permission(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vidcomp.video.files.os.open", deny)  # the tests may run as a user who may read everything
    assert refused(good).code == "no_permission"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"just words\n" * 100, "not_a_video"),
        ("Ein Text mit Umlauten: \u00e4\u00f6\u00fc\n".encode() * 80, "not_a_video"),
        (b"#EXTM3U\nhttp://192.0.2.1/a.ts\n" + bytes(600), "not_a_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n" + bytes(600), "not_a_video"),
        (b"\x7fELF" + bytes(range(256)) * 20, "not_a_video"),
        (b"%PDF-1.7\n\x80\x81" + bytes(range(256)) * 20, "not_a_video"),
    ],
)
def test_content_that_is_no_video(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "claims.mp4"
    path.write_bytes(content)
    assert refused(path).code == code


def test_text_starts_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    path = tmp_path / "text.mp4"
    path.write_text("hello " * 100)
    assert refused(path).code == "not_a_video"


def test_cut_before_the_index(tmp_path: Path, good: Path) -> None:
    path = tmp_path / "no_index.mp4"
    path.write_bytes(good.read_bytes()[:8000])
    assert refused(path).code == "no_index"


def test_index_without_pictures(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "fast.mp4", 30, container={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "index_only.mp4"
    path.write_bytes(whole[: whole.index(b"mdat") + 4])
    assert refused(path).code in {"no_frames", "unreadable"}


def test_absurd_claims_are_refused_before_decoding(tmp_path: Path, good: Path) -> None:
    assert refused(patch_size(tmp_path / "wide.mp4", good, 32768, 32768)).code == "implausible_header"
    data = bytearray(good.read_bytes())
    count = data.index(b"stsz") + 12
    data[count : count + 4] = (10**9).to_bytes(4, "big")
    (tmp_path / "many.mp4").write_bytes(data)
    error = refused(tmp_path / "many.mp4")
    assert (error.code, "1,000,000,000 frames" in error.why) == ("implausible_header", True)


@pytest.mark.parametrize(
    "name",
    [
        b"-with space\nand line.mp4",
        b"img%03d.gif",
        b"a*b?[c].mp4",
        b"http:.mp4",
        b"latin-\xe9\xff.mp4",
        b"no_extension",
    ],
)
def test_odd_names_are_read(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_bytes(good.read_bytes())
    frames = read_frames(os.fsdecode(name), FOUR)
    assert read_numbers(frames.pixels) == frames.indices.tolist()


def test_display_name_is_one_printable_line() -> None:
    assert display_name(os.fsdecode(b"a\nb\xff\x1b[0m.mp4")) == "a\\nb\\xff\\x1b[0m.mp4"
    assert display_name("\u6620\u753b.mp4") == "\u6620\u753b.mp4"


def test_wrong_arguments(good: Path) -> None:
    with pytest.raises(UsageError, match="no such video reader: vlc"):
        read_frames(good, FOUR, readers=["vlc"])
    with pytest.raises(UsageError):
        read_frames(good, FOUR, readers=[])
    with pytest.raises(ValueError, match="deadline_seconds"):
        read_frames(good, FOUR, deadline_seconds=0)
    with pytest.raises(ValueError, match="max_side"):
        read_frames(good, FOUR, max_side=-1)


def test_header_of_a_good_file(good: Path) -> None:
    with good.open("rb") as file:
        header = read_header(file.fileno())
    assert (header.kind, header.samples, header.width, header.height, header.codec) == ("iso", 30, 320, 240, "avc1")
    assert header.seconds == pytest.approx(1.2, abs=0.01)
    assert (header.has_video, header.has_index, header.cut_short, header.edits) == (True, True, False, 1)


def test_header_never_raises_on_damage(tmp_path: Path, good: Path) -> None:
    data = good.read_bytes()
    start = data.index(b"moov") - 4
    path = tmp_path / "damaged.mp4"
    for place in range(start, min(start + 700, len(data)), 5):
        path.write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
        with path.open("rb") as file:
            assert isinstance(read_header(file.fileno()), Header)
        path.write_bytes(b"\x1aE\xdf\xa3" + data[place : place + 7])
        with path.open("rb") as file:
            assert isinstance(read_header(file.fileno()), Header)


def test_import_starts_no_native_library() -> None:
    code = "import sys, vidcomp.video; print([m for m in ('cv2', 'decord', 'torch') if m in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


@given(content=st.binary(max_size=40), places=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=8))
def test_bytes_are_those_of_the_file(content: bytes, places: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidcomp.video.container.file_bytes.PIECE_BYTES", 7)
        file.write(content)
        file.flush()
        found = FileBytes(file.fileno())
        assert len(found) == len(content)
        for start, size in places:
            assert found[start : start + size] == content[start : start + size]
            if start < len(content):
                assert found[start] == content[start]
            else:
                with pytest.raises(IndexError):
                    found[start]


def hostile_boxes() -> bytes:
    """Tracks whose only box claims to hold all tracks behind it."""
    track = (16).to_bytes(4, "big") + b"trak" + (1 << 30).to_bytes(4, "big") + b"mdia"
    return b"\0\0\0\x08ftyp" + (8 + 2000 * len(track)).to_bytes(4, "big") + b"moov" + 2000 * track


def hostile_elements() -> bytes:
    """A segment of a million empty elements, which does not end."""
    return b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\xff" + 1_000_000 * b"\xec\x80"


@pytest.mark.parametrize("make", [hostile_boxes, hostile_elements])
def test_hostile_headers_are_looked_at_a_bounded_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]
) -> None:
    path, looks, look = tmp_path / "hostile", [], os.pread
    path.write_bytes(make())
    monkeypatch.setattr(os, "pread", lambda *args: looks.append(args) or look(*args))
    with open(path, "rb") as file:
        read_header(file.fileno())
    assert len(looks) < 40_000
    assert sum(size for _, size, _ in looks) < 1 << 26


OFFSETS = [("a.mkv", 10), ("a.mp4", 10), ("a.ts", 10), ("a.ts", 95_000)]


@pytest.mark.parametrize(
    ("name", "seconds", "reader"),
    [(*offset, reader) for offset in OFFSETS for reader in READERS if (offset[0], reader) != ("a.ts", "decord")],
)
def test_times_count_from_the_first_frame_wherever_the_clock_of_the_file_starts(
    tmp_path: Path, good: Path, name: str, seconds: int, reader: str
) -> None:
    def later(_: int, packet: Any) -> Any:
        shift = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        return packet

    frames = read_frames(remux(tmp_path / name, good, later), FOUR, readers=[reader])
    assert read_numbers(frames.pixels) == frames.indices.tolist() == [0, 9, 19, 29]
    np.testing.assert_allclose(frames.times, frames.indices / 25, atol=1e-3)
    assert [float(time) for time in frames.exact_times] == pytest.approx(frames.times.tolist(), abs=1e-6)
    assert float(frames.info.start_seconds) >= seconds
