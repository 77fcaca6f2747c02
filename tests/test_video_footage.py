# SPDX-License-Identifier: Apache-2.0
"""The footage beside the repository: what every clip gives, against a full decode by the other reader and by PyAV."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from vidcomp.errors import InputError
from vidcomp.video import Sampling, read_frames

av = pytest.importorskip("av", reason="presentation times are checked with PyAV")

FOOTAGE = Path(__file__).resolve().parents[2] / "shared" / "videos"
pytestmark = pytest.mark.skipif(not FOOTAGE.is_dir(), reason="no ../shared/videos beside the repository")

# name -> reader, presentable frames, time of the last one
CLIPS = {
    "anim.gif": ("pyav", 40, 3.9),
    "cut_copy.mp4": ("pyav", 167, 6.64),
    "h264_longgop.mp4": ("pyav", 3000, 119.96),
    "h264_opengop.mp4": ("pyav", 250, 9.96),
    "hevc_10bit.mkv": ("pyav", 100, 3.96),
    "jesse_dance.mp4": ("pyav", 235, 9.75),
    "one.mp4": ("pyav", 1, 0.0),
    "pancake.mkv": ("pyav", 310, 10.3),
    "pv_output.mp4": ("pyav", 35, 6.12),
    "rot90.mp4": ("pyav", 100, 3.96),
    "scenes_h264.mp4": ("pyav", 300, 11.96),
    "start_offset.mp4": ("pyav", 100, 3.96),
    "trunc_fast.mp4": ("pyav", 51, 2.04),
    "vfr.mp4": ("pyav", 150, 11.12),
}


def shown(path: Path) -> np.ndarray:
    """PyAV's presentation seconds, from 0.0; a packet that cannot be decoded is passed over, as ffmpeg does."""
    times: list[float] = []
    with av.open(str(path), metadata_errors="ignore") as source:
        source.streams.video[0].thread_type = "NONE"
        for packet in source.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):
                times.extend(float(frame.time) for frame in packet.decode())
    return np.array(times) - times[0]


@pytest.mark.parametrize("name", CLIPS)
def test_frames_and_times_are_true(name: str) -> None:
    reader, total, last = CLIPS[name]
    frames = read_frames(FOOTAGE / name, Sampling(8))
    assert (frames.info.reader, frames.info.frames_total) == (reader, total)
    assert frames.times[-1] == pytest.approx(last, abs=1e-3)
    np.testing.assert_allclose(frames.times, shown(FOOTAGE / name)[frames.indices], atol=1e-3)
    assert len(frames) == min(8, total)
    expected = "decoded 2.1 s of 4.0 s" if name == "trunc_fast.mp4" else None
    assert frames.degraded == expected


@pytest.mark.parametrize("name", ["h264_opengop.mp4", "hevc_10bit.mkv", "pancake.mkv", "rot90.mp4"])
def test_sampled_frames_equal_a_full_decode_by_the_other_reader(name: str) -> None:
    every = read_frames(FOOTAGE / name, Sampling(frames=100_000), readers=["opencv"], max_side=48)
    some = read_frames(FOOTAGE / name, Sampling(11), readers=[CLIPS[name][0]], max_side=48)
    difference = np.abs(every.pixels[None].astype(np.int16) - some.pixels[:, None]).mean((2, 3, 4))  # [T, N]
    own = difference[np.arange(len(some)), some.indices]
    assert (own <= difference.min(1) + 0.1).all()
    np.testing.assert_allclose(some.times, every.times[some.indices], atol=1e-3)


def test_rotated_footage_is_upright() -> None:
    frames = read_frames(FOOTAGE / "rot90.mp4", Sampling(2))
    assert (frames.info.width, frames.info.height) == (240, 320)
    assert frames.pixels.shape == (2, 320, 240, 3)


def test_sound_alone_is_named() -> None:
    with pytest.raises(InputError) as caught:
        read_frames(FOOTAGE / "audio_only.mp4", Sampling(4))
    assert caught.value.code == "no_video_stream"
