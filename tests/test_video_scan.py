# SPDX-License-Identifier: Apache-2.0
"""The packet scan against a full decode, the plans made from it, and the sampling rules against the stock
processors."""

from __future__ import annotations

import ast
import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import make_clip, make_cut, read_numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.core.published import INTERNVL_RULE, QWEN2_RULE, QWEN3_RULE, SMOLVLM_RULE, VIDEO_LLAMA_3_RULE
from vidcomp.core.stock_rules import StockRule
from vidcomp.video import Sampling, read_frames
from vidcomp.video.container import index
from vidcomp.video.container.header import Header
from vidcomp.video.container.packets import list_packets, start_video
from vidcomp.video.container.plan import cheaper_frames, decoded_frames, segments
from vidcomp.video.container.scan import Scan, Timeline, scan_video
from vidcomp.video.probe import probe
from vidcomp.video.readers.base import Facts, Packets, Source
from vidcomp.video.readers.pyav import PyAvReader
from vidcomp.video.scenes import find_cuts, thumbnail

OPEN_GOP = {"x264-params": "open-gop=1:keyint=24:min-keyint=12:bframes=3:b-pyramid=normal:scenecut=0", "preset": "fast"}


def scan_of(path: Path, by_index: bool = False) -> Scan:
    if by_index:
        packets = list_packets(str(path), Header())
        packets.close()
        scan = packets.scan
    else:
        container, stream = start_video(str(path), 1)
        scan = scan_video(container, stream)
        container.close()
    assert scan is not None
    return scan


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    long = make_clip(folder / "long.mp4", 400, size=(64, 48), options={"g": "20", "bf": "3", "preset": "ultrafast"})
    return {
        "open.mp4": make_clip(folder / "open.mp4", 200, size=(160, 120), options=OPEN_GOP),
        "open.mkv": make_clip(folder / "open.mkv", 200, size=(160, 120), options=OPEN_GOP),
        "mpeg4.mkv": make_clip(folder / "mpeg4.mkv", 120, size=(160, 120), codec="mpeg4", options={"bf": "2", "g":
        "12"}), "long.mp4": long,
        "sound.mkv": make_clip(folder / "sound.mkv", 60, options={"bf": "2", "g": "15"}, sound_seconds=3),
        "cut.mp4": make_cut(folder / "cut.mp4", long, start=1.1, stop=9.0),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["open.mp4", "open.mkv", "mpeg4.mkv", "long.mp4", "cut.mp4"])
def test_the_scan_tells_what_a_full_decode_tells(clips, name):
    import av

    scan = scan_of(clips[name])
    with av.open(str(clips[name])) as file:
        decoded = [frame.pts for frame in file.decode(video=0)]
    assert scan.timeline.ticks.tolist() == decoded
    assert scan.exact
    assert (scan.hidden > 0) == (name == "cut.mp4")


def test_the_index_gives_the_same_table_as_the_packets(clips, monkeypatch):
    monkeypatch.setattr(index, "LEAST_PACKETS", 10)
    monkeypatch.setattr(index, "FIRST_PACKETS", 30)
    for name in ("open.mp4", "long.mp4", "cut.mp4"):
        ours, other = scan_of(clips[name], by_index=True), scan_of(clips[name])
        assert ours.timeline.ticks.tolist() == other.timeline.ticks.tolist()
        assert ours.keys.tolist() == other.keys.tolist()
        assert ours.order.tolist() == other.order.tolist()
    monkeypatch.setattr(index, "_per_sample", lambda path, track, count: (np.ones(count), np.arange(count)))
    assert scan_of(clips["long.mp4"], by_index=True).timeline.ticks.tolist() == other_ticks(clips["long.mp4"])


def other_ticks(path: Path) -> list[int]:
    return scan_of(path).timeline.ticks.tolist()


@pytest.mark.parametrize("name", ["open.mp4", "open.mkv", "mpeg4.mkv", "long.mp4", "cut.mp4"])
@pytest.mark.parametrize("wanted", [(0,), (3, 97), (37, 38, 90), (11, 60, 61, 119)])
def test_skipping_and_jumping_change_no_bit(clips, name, wanted, monkeypatch):
    """Frames reached by jumps, with pictures skipped on the way, equal those of a plain decode from the start."""
    import av

    monkeypatch.setattr("vidcomp.video.container.plan.JUMP_FRAMES", 2)
    with av.open(str(clips[name])) as file:
        every = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    from vidcomp.video.container.header import read_header

    with open(clips[name], "rb") as file, PyAvReader() as reader:
        codec = "mpeg4" if name.startswith("mpeg4") else "h264"
        packets = Packets(scan_of(clips[name]), Facts(codec=codec))
        reader.open(Source(str(clips[name]), read_header(file.fileno()), lambda: packets))
        images = list(reader.read(wanted, None))
    assert all(np.array_equal(image, every[i]) for image, i in zip(images, wanted, strict=True))


@pytest.mark.parametrize("name", ["open.mp4", "open.mkv", "long.mp4"])
def test_fast_seeks_stay_within_a_quarter_of_the_step(clips, name):
    exact = read_frames(clips[name], Sampling(6))
    fast = read_frames(clips[name], Sampling(6, seek="fast"))
    step = (exact.times[-1] - exact.times[0]) / 5
    assert np.abs(fast.times - exact.times).max() <= step / 4 + 1e-9
    assert len(set(fast.indices.tolist())) == 6
    assert read_numbers(fast.pixels) == fast.indices.tolist()
    scan = scan_of(clips[name])
    cost = [decoded_frames(scan, segments(scan, f.indices.tolist(), scan.keys)) for f in (exact, fast)]
    assert cost[1] < cost[0]


def test_a_gap_does_not_widen_the_bound_of_a_rate():
    ticks = np.concatenate([np.arange(500) * 4, [200_000]])
    keys = np.isin(np.arange(501), [0, 240, 500])
    scan = Scan(Timeline(ticks, Fraction(1, 100)), keys, np.arange(501), 0, True)
    asked = np.append(np.arange(0, 500, 25), 500)
    moved = cheaper_frames(scan, asked, (0, 501), 1.0)
    assert np.abs(ticks[moved] - ticks[asked]).max() <= 25
    assert np.abs(ticks[cheaper_frames(scan, asked, (0, 501))] - ticks[asked]).max() > 25


@st.composite
def scans(draw):
    """A made-up scan with closed groups of pictures."""
    count = draw(st.integers(2, 400))
    keys = np.zeros(count, bool)
    keys[[0, *draw(st.lists(st.integers(0, count - 1), max_size=20))]] = True
    ticks = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)))
    return Scan(Timeline(ticks, Fraction(1, 25)), keys, np.arange(count), 0, True)


@settings(max_examples=60)
@given(scans(), st.data())
def test_plans_reach_every_frame_and_never_cost_more_than_going_through(scan, data):
    wanted = sorted(set(data.draw(st.lists(st.integers(0, len(scan) - 1), min_size=1, max_size=30))))
    plan = segments(scan, wanted, scan.keys)
    assert [index for part in plan for index in part.wanted] == wanted
    assert all(scan.keys[part.key] and part.key <= part.wanted[0] for part in plan)
    assert decoded_frames(scan, plan) <= decoded_frames(scan, segments(scan, wanted, None))


@settings(max_examples=60)
@given(scans(), st.integers(1, 40))
def test_fast_seeking_keeps_order_and_distance_and_saves(scan, frames):
    exact = np.unique(np.linspace(0, len(scan) - 1, frames).astype(np.int64))
    moved = cheaper_frames(scan, exact, (0, len(scan)))
    assert (np.diff(moved) > 0).all()
    ticks = scan.timeline.ticks
    if len(exact) > 1:
        quarter = (ticks[exact[-1]] - ticks[exact[0]]) / (len(exact) - 1) / 4
        assert (np.abs(ticks[moved] - ticks[exact]) <= quarter).all()
    assert all(scan.keys[m] or m <= e for m, e in zip(moved, exact, strict=True))


def test_fast_seeking_saves_where_key_frames_are_rarer_than_samples_are_wide():
    """Five minutes with a key frame every ten seconds, sampled every ten: hardly any key frame is near a sample."""
    count = 7500
    ticks, keys = np.arange(count), np.arange(count) % 250 == 0
    scan = Scan(Timeline(ticks, Fraction(1, 25)), keys, ticks, 0, True)
    exact = np.linspace(0, count - 1, 32).astype(np.int64)
    cost = [
        decoded_frames(scan, segments(scan, chosen.tolist(), keys))
        for chosen in (exact, cheaper_frames(scan, exact, (0, len(scan))))
    ]
    assert cost[0] > 3 * cost[1]


def test_cuts_are_found_and_motion_is_none():
    rng = np.random.default_rng(0)
    scenes = [np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((12, 16, 1))).astype(np.uint8) for _ in range(3)]
    frames = [np.roll(scene, step, axis=1) for scene in scenes for step in range(20)]
    assert find_cuts(map(thumbnail, frames)).tolist() == [0, 20, 40, 60]
    assert find_cuts(map(thumbnail, frames[:1])).tolist() == [0, 1]
    assert find_cuts([thumbnail(frames[0])] * 30).tolist() == [0, 30]


def test_one_or_more_frames_from_every_scene(tmp_path):
    import av

    path = tmp_path / "scenes.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number, length in enumerate((40, 10, 25)):
            for _ in range(length):
                image = np.full((64, 96, 3), 40 + 80 * number, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    few = read_frames(path, Sampling(3, rule="scene")).indices
    assert [np.searchsorted([40, 50], i, side="right") for i in few] == [0, 1, 2]
    assert len(read_frames(path, Sampling(12, rule="scene"))) == 12


def test_ranges(clips):
    frames = read_frames(clips["open.mp4"], Sampling(4, start=2.0, end=4.0))
    assert (frames.times[0], frames.times[-1]) == (2.0, 4.0)
    assert frames.exact_times[1] == Fraction(int(frames.indices[1]), 25)
    only = read_frames(clips["open.mp4"], Sampling(4, start=3.99, end=4.0))
    assert only.indices.tolist() == [99, 100]


def stock_sampler(model: str):
    """``sample_frames`` of an installed video processor, from its source: importing it would need torchvision."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent / "models" / model / f"video_processing_{model}.py"
    found = next(n for n in ast.walk(ast.parse(source.read_text("utf-8")))
                 if isinstance(n, ast.FunctionDef) and n.name == "sample_frames")  # fmt: skip
    found.decorator_list, found.returns = [], None
    for argument in [*found.args.args, *found.args.kwonlyargs]:
        argument.annotation = None
    scope = {"np": np, "torch": torch, "math": math}
    exec(compile(ast.Module([found], []), str(source), "exec"), scope)
    return scope["sample_frames"]


class Metadata(SimpleNamespace):
    def __getitem__(self, name):
        return getattr(self, name)


@pytest.mark.parametrize(
    ("model", "rule", "own"),
    [
        ("qwen2_vl", QWEN2_RULE, dict(fps=2, num_frames=None, temporal_patch_size=2, min_frames=4, max_frames=768)),
        ("qwen3_vl", QWEN3_RULE, dict(fps=2, num_frames=None, min_frames=4, max_frames=768)),
        ("internvl", StockRule(frames=8, shift=INTERNVL_RULE.shift), dict(num_frames=8, initial_shift=True)),
        ("smolvlm", SMOLVLM_RULE, dict(num_frames=64, fps=1)),
        ("video_llama_3", VIDEO_LLAMA_3_RULE, dict(fps=1, num_frames=None, temporal_patch_size=1, min_frames=4,
                                                   max_frames=180)),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("total", "rate"), [(37, 25.0), (250, 25.0), (1001, 29.97), (9000, 30.0), (64, 8.0)])
def test_stock_rules_equal_the_installed_processors(model, rule, own, total, rate):
    metadata = Metadata(total_num_frames=total, fps=rate, duration=total / rate)
    stock = stock_sampler(model)(SimpleNamespace(**own), metadata)
    assert rule.choose(total, total / rate).tolist() == np.asarray(stock).tolist()


def test_probe_equals_reading(clips):
    for name in ("open.mkv", "cut.mp4"):
        found, frames = probe(clips[name]), read_frames(clips[name], Sampling(2))
        assert found.frames_total == frames.info.frames_total
        assert found.seconds == pytest.approx(frames.info.duration_seconds)
        assert (found.width, found.height) == (frames.info.width, frames.info.height)
        assert (found.container, found.codec, found.doubt) == (frames.info.container, "h264", "")
