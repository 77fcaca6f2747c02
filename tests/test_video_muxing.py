# SPDX-License-Identifier: Apache-2.0
"""However a stream was packed, every reader gives the pictures that were asked for, or refuses the file.

Streams of every codec at hand, with short and long groups of pictures, with and without B-frames, are packed in every
way that the muxers know; the truth is the number burned into every picture.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("av", reason="test clips are written with PyAV")

from clips import make_clip, read_numbers, remux
from waiting import read_frames

from vidcomp.config import VideoConfig
from vidcomp.errors import InputError, UsageError
from vidcomp.video import READERS, Sampling
from vidcomp.video.options import readers_of
from vidcomp.video.readers.base import require_readers

COUNT = 18
SIZE = (128, 64)
EVERY = Sampling(frames=100)
FAST = {"preset": "veryfast"}

# what is made -> ending and options of the muxer
PACKINGS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("mp4", {}),
    "faststart": ("mp4", {"movflags": "faststart"}),
    "no edit list": ("mp4", {"use_editlist": "0"}),
    "negative offsets": ("mp4", {"movflags": "negative_cts_offsets"}),
    "fragment per group": ("mp4", {"movflags": "frag_keyframe"}),
    "empty index": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "offsets from the fragment": ("mp4", {"movflags": "empty_moov+default_base_moof", "frag_duration": "150000"}),
    "late index": ("mp4", {"movflags": "frag_keyframe+delay_moov+default_base_moof"}),
    "dash": ("mp4", {"movflags": "frag_keyframe+dash"}),
    "dash in mid-group": ("mp4", {"movflags": "dash", "frag_duration": "200000"}),
    "one list of fragments": ("mp4", {"movflags": "frag_keyframe+default_base_moof+global_sidx"}),
    "fragment per picture": ("mp4", {"movflags": "frag_every_frame+empty_moov"}),
    "matroska": ("mkv", {}),
    "short clusters": ("mkv", {"cluster_time_limit": "100"}),
    "live matroska": ("mkv", {"live": "1"}),
}
# for codecs other than H.264
FEW = (
    "plain",
    "fragment per group",
    "offsets from the fragment",
    "dash in mid-group",
    "fragment per picture",
    "live matroska",
)


def x264(group: int, between: int) -> dict[str, str]:
    return {**FAST, "g": str(group), "bf": str(between), "sc_threshold": "0"}


# codec, group of pictures, B-frames -> options of the encoder
STREAMS: dict[tuple[str, int, int], dict[str, str]] = {
    **{("libx264", group, between): x264(group, between) for group, between in ((2, 3), (5, 0), (5, 3), (250, 3))},
    ("libx265", 5, 3): {"preset": "ultrafast", "x265-params": "keyint=5:bframes=3:scenecut=0:log-level=0"},
    ("mpeg4", 6, 2): {"g": "6", "bf": "2", "q": "5"},
    ("libvpx-vp9", 6, 0): {"g": "6", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"},
    ("libsvtav1", 6, 0): {"g": "6", "preset": "12", "svtav1-params": "lp=1"},
}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: "-".join(map(str, stream)))
def test_however_it_is_packed_pictures_are_true_or_refused(stream: tuple[str, int, int], tmp_path: Path) -> None:
    import av

    codec, group, _ = stream
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    source = make_clip(tmp_path / "source.mp4", COUNT, size=SIZE, codec=codec, options=STREAMS[stream])
    packings = PACKINGS if codec == "libx264" else FEW
    refused = {(name, reader) for name in packings for reader in READERS if not true(packed(name, source), reader)}
    assert not [name for name, reader in refused if reader == "pyav"]
    if codec == "libx264" and group == 250:
        assert not {("plain", "decord"), ("matroska", "decord")} & refused


def packed(name: str, source: Path) -> Path:
    ending, options = PACKINGS[name]
    path = source.with_name(f"{name}.{ending}")
    return path if path.exists() else remux(path, source, container=options)


def true(path: Path, reader: str) -> bool:
    """Every picture is the right one; False when the reader refuses."""
    try:
        frames = read_frames(path, EVERY, readers=[reader])
    except InputError:
        return False
    assert (path.stem, reader, frames.degraded) == (path.stem, reader, None)
    assert (path.stem, reader, read_numbers(frames.pixels)) == (path.stem, reader, list(range(COUNT)))
    return True


def test_a_named_reader_that_cannot_be_trusted_says_so(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mp4", COUNT, size=SIZE, options=x264(5, 3))
    with pytest.raises(InputError) as caught:
        read_frames(packed("dash in mid-group", source), EVERY, readers=readers_of(VideoConfig(reader="decord")))
    assert caught.value.code == "reader_refused"
    assert caught.value.what.startswith("decord cannot be trusted with ")
    assert "fragmented" in caught.value.why and "--reader auto" in caught.value.hint
    assert read_frames(source, EVERY, readers=readers_of(VideoConfig())).info.reader == "pyav"


def test_a_named_reader_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(require_readers.__globals__["LIBRARIES"], "decord", "no_such_library")
    with pytest.raises(UsageError) as caught:
        require_readers(["decord"])
    assert "decord is not installed" in caught.value.what
    assert require_readers(["decord", "pyav"]) == ["decord", "pyav"]
    with pytest.raises(UsageError):
        VideoConfig(reader="vlc")
