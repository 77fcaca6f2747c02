# SPDX-License-Identifier: Apache-2.0
"""Scenes of joined clips whose cuts are known, and the formats as other programs read them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_video_integrity import damaged, make_hevc

from vidcomp.report.scenes import scenes_csv, scenes_edl, scenes_ffmetadata
from vidcomp.video import scene_list
from vidcomp.video.scene_list import list_scenes, scenes_of

LENGTHS, FPS = (40, 25, 60), 25


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three still pictures, joined."""
    import av

    path, rng = tmp_path_factory.mktemp("film") / "film.mp4", np.random.default_rng(3)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for length in LENGTHS:
            picture = np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
            for _ in range(length):
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


@pytest.mark.parametrize("stretch", [60.0, 1.3])
def test_scenes_are_those_that_were_joined(film, monkeypatch, stretch):
    monkeypatch.setattr(scene_list, "STRETCH", stretch)
    found = list_scenes(film).scenes
    ends = np.cumsum(LENGTHS).tolist()
    assert [scene.last + 1 for scene in found] == ends
    assert [scene.end for scene in found] == [Fraction(end, FPS) for end in ends]
    assert all(scene.first <= scene.key <= scene.last and scene.redundancy > 0.9 for scene in found)


def test_damage_in_any_part_is_told_once(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_list, "STRETCH", 1.0)
    path = damaged(make_hevc(tmp_path / "a.mp4"), 5)
    listed = list_scenes(path)
    assert listed.status == "degraded" and listed.degraded.count("damaged data") == 1
    record = json.loads(cli("scenes", path, "--json")[1])
    assert (record["status"], record["degraded"]) == ("degraded", listed.degraded)


def test_formats(cli, film, tmp_path):
    record = json.loads(cli("scenes", film, "--format", "json")[1])
    assert [scene["start"] for scene in record["scenes"]] == [0.0, 1.6, 2.6]
    rows = list(csv.DictReader(io.StringIO(cli("scenes", film, "--format", "csv")[1])))
    assert [row["first_frame"] for row in rows] == ["0", "40", "65"]
    lines = cli("scenes", film, "--format", "edl")[1].splitlines()
    assert lines[-1].split()[4:] == ["00:00:02:15", "00:00:05:00", "00:00:02:15", "00:00:05:00"]
    status, out, _ = cli("scenes", film)
    assert status == 0 and "1.60-2.60" in out
    if shutil.which("ffprobe") is None:
        pytest.skip("no ffprobe to read the chapters with")
    chapters = tmp_path / "chapters"
    chapters.write_text(cli("scenes", film, "--format", "ffmetadata")[1])
    read = subprocess.run(
        ["ffprobe", "-v", "error", "-f", "ffmetadata", "-show_chapters", "-of", "json", chapters],
        capture_output=True, check=True,
    )  # fmt: skip
    assert [float(chapter["end_time"]) for chapter in json.loads(read.stdout)["chapters"]] == [1.6, 2.6, 5.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(0, 99))
def test_scenes_cover_the_film(lengths, seed):
    rng = np.random.default_rng(seed)
    small = np.concatenate([np.repeat(rng.uniform(0, 255, (1, 16, 16)), n, 0) for n in lengths]).astype(np.float32)
    times = [Fraction(index, 30) for index in range(len(small))]
    found = scenes_of(small, times, Fraction(len(small), 30))
    assert found[0].first == 0 and found[-1].last == len(small) - 1
    for one, other in pairwise(found):
        assert (one.last + 1, one.end) == (other.first, other.start)
    assert all(scene.start < scene.end for scene in found)
    for text in (scenes_csv(found), scenes_edl(found, 29.97, "film"), scenes_ffmetadata(found)):
        assert len(text.splitlines()) > len(found)
