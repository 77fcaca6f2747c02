# SPDX-License-Identifier: Apache-2.0
"""Windows of a film: they cover it without gaps or overlap, and each holds frames of its own."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from clips import make_clip
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.errors import InputError, UsageError
from vidcomp.video.container import packets
from vidcomp.video.process import decode
from vidcomp.video.scene_list import list_cuts, list_scenes
from vidcomp.video.windows import Clock, Every, plan_windows, windows_of

BASE = Fraction(1, 1000)


def clock(ticks, last=40):
    return Clock(np.array(ticks, np.int64), BASE, (ticks[-1] + last) * BASE)


def steady(frames, step=40):
    return clock([number * step for number in range(frames)], step)


steps = st.lists(st.integers(1, 5000), min_size=0, max_size=60)
seconds = st.fractions(0, 300, max_denominator=1000)
rules = st.one_of(
    st.builds(Every, st.just("scene"), st.just(Fraction(0)), st.fractions(0, 20, max_denominator=100)),
    st.builds(Every, st.just("step"), st.fractions(Fraction(1, 5000), 60, max_denominator=5000)),
    st.builds(
        lambda least, more: Every("auto", Fraction(0), least, least + more),
        st.fractions(0, 5, max_denominator=100),
        st.fractions(Fraction(1, 100), 30, max_denominator=100),
    ),
)


@given(steps, st.lists(seconds, max_size=20), rules, st.none() | seconds, st.none() | seconds)
def test_windows_cover_the_film_once(steps, cuts, every, start, end):
    film = clock([0, *np.cumsum(steps).tolist()])
    windows = windows_of(film, every, cuts, start, end)
    times = [film.time(frame) for frame in range(len(film.ticks))]
    begin, stop = start or 0, min(film.end, film.end if end is None else end)
    if not windows:
        assert begin >= stop
        return
    assert (windows[0].start, windows[-1].end) == (begin, stop)
    assert all(one.end == two.start and one.start < one.end for one, two in pairwise(windows))
    held = [time for window in windows for time in times if window.first <= time <= window.last]
    inside = [time for time in times if begin <= time < stop]
    assert held == (inside or [max(time for time in times if time <= begin)])
    assert all(float(part["start"]) < float(part["end"]) for part in (window.settings() for window in windows))


def test_windows_are_neither_shorter_nor_longer_than_asked():
    cuts = [Fraction(number, 2) for number in range(1, 40)] + [Fraction(90)]
    windows = windows_of(steady(2500), Every("auto", Fraction(0), Fraction(2), Fraction(30)), cuts)
    assert all(2 <= window.end - window.start <= 30 for window in windows)
    assert windows[0].end == 2 and len(windows) > 10


def test_a_step_shorter_than_a_frame_gives_a_window_per_frame():
    windows = windows_of(steady(50), Every("step", Fraction(1, 1000)))
    assert len(windows) == 50
    assert all(window.first == window.last for window in windows)


@pytest.mark.parametrize(("cuts", "count"), [(0, 1), (10_000, 10_001)])
def test_none_and_very_many_cuts(cuts, count):
    windows = windows_of(steady(20_002), Every("scene"), [Fraction(2 * n + 2) * 40 * BASE for n in range(cuts)])
    assert len(windows) == count


def test_a_frame_that_stands_for_long_is_in_one_window():
    windows = windows_of(clock([0, 100, 60_000]), Every("step", Fraction(10)))
    assert [(window.start, window.end, window.last) for window in windows] == [
        (0, 60, Fraction(1, 10)), (60, Fraction(60_040, 1000), 60)]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30", 30), ("30s", 30), ("0.1s", Fraction(1, 10)), ("1:30", 90), ("00:01:00.5", Fraction(121, 2))],
)
def test_a_step_in_seconds(given, seconds):
    assert Every.parse(given) == Every("step", Fraction(seconds))


@pytest.mark.parametrize(
    "given",
    [("often",), ("0",), ("-3",), ("inf",), ("scene", "5", "2"), ("scene", "x"), ("30", None, "0"), (None, "2")],
)
def test_what_is_no_division_is_refused(given):
    with pytest.raises(UsageError):
        Every.parse(*given)


def test_a_low_max_lowers_the_min_of_auto():
    assert Every.parse("auto", None, "1").least == 1
    assert Every.parse("auto").to_dict() == {"every": "auto", "min": "2", "max": "30"}


def test_beyond_the_end_nothing_is_shown(clip):
    with pytest.raises(InputError) as caught:
        plan_windows(clip, Every.parse("1s"), (100.0, None))
    assert caught.value.code == "empty_range"
    _, windows, _ = plan_windows(clip, Every.parse("1s"), (1.0, 500.0))
    assert [str(window.end) for window in windows] == ["6/5"]


def test_cuts_are_those_of_the_scenes(tmp_path):
    import av

    path = tmp_path / "cuts.mp4"
    rng = np.random.default_rng(5)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for length in (20, 11, 30):
            picture = np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
            for _ in range(length):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    told = []
    cuts, damage = list_cuts(path, lambda seconds, length: told.append((seconds, length)))
    assert cuts == [scene.start for scene in list_scenes(path).scenes[1:]] == [Fraction(20, 25), Fraction(31, 25)]
    assert damage is None and told[-1][0] == pytest.approx(60 / 25)


def test_packets_of_a_film_are_listed_once(tmp_path, monkeypatch):
    """In the worker: the next window of the same file takes the list of the one before; a changed file does not."""
    path = make_clip(tmp_path / "a.mp4", frames=20)
    listed = []

    def list_packets(*args):
        listed.append(args)
        return packets.list_packets(*args)

    monkeypatch.setattr(decode, "list_packets", list_packets)
    from vidcomp.video.container.header import read_header
    from vidcomp.video.process.messages import Request
    from vidcomp.video.sampling import Sampling

    def request():
        with open(path, "rb") as file:
            header = read_header(file.fileno())
        return Request(("pyav",), str(path), header, Sampling(2), None, 1 << 20)

    first, second = decode._packets(request()), decode._packets(request())
    assert len(listed) == 1 and first.scan is second.scan and second.opened is None
    first.close()
    make_clip(path, frames=22)
    again = decode._packets(request())
    assert len(listed) == 2 and len(again.scan) == 22
    again.close()
    decode._last_list.clear()
