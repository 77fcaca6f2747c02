# SPDX-License-Identifier: Apache-2.0
"""Which frames are taken: first and last included, uniform in time, none twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.video.sampling import Sampling, choose_frames

STEPS = st.lists(st.floats(0.0, 3.0, allow_nan=False), max_size=60)


def regular(count: int, fps: float = 25.0) -> np.ndarray:
    return np.arange(count) / fps


@given(STEPS, st.integers(1, 80))
def test_uniform_keeps_the_ends_and_repeats_nothing(steps: list[float], frames: int) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    chosen = choose_frames(times, Sampling(frames))
    assert len(chosen) == min(frames, len(times))
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] == 0
    if frames > 1:
        assert chosen[-1] == len(times) - 1


@given(STEPS, st.floats(0.05, 200.0), st.none() | st.integers(1, 40))
def test_rate_repeats_nothing_and_respects_the_bound(steps: list[float], fps: float, bound: int | None) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    chosen = choose_frames(times, Sampling(frames=None, fps=fps, max_frames=bound))
    assert 1 <= len(chosen) <= min(len(times), bound or len(times))
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] == 0


def test_uniform_frames_are_the_ones_on_screen() -> None:
    assert choose_frames(regular(101), Sampling(5)).tolist() == [0, 25, 50, 75, 100]
    assert choose_frames(regular(10), Sampling(4)).tolist() == [0, 3, 6, 9]
    assert choose_frames(regular(10), Sampling(1)).tolist() == [0]


def test_uniform_follows_time_not_frame_numbers() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 5.0, 10.0])  # dense first, sparse later
    assert choose_frames(times, Sampling(3)).tolist() == [0, 6, 7]


def test_a_frozen_picture_is_taken_once() -> None:
    times = np.array([0.0, 0.1, 0.2, 9.0, 9.1])
    assert choose_frames(times, Sampling(4)).tolist() == [0, 2, 3, 4]


def test_rate_takes_the_last_frame_when_it_is_half_a_step_away() -> None:
    assert choose_frames(regular(63), Sampling(frames=None, fps=1.0)).tolist() == [0, 25, 50]
    assert choose_frames(regular(64), Sampling(frames=None, fps=1.0)).tolist() == [0, 25, 50, 63]
    assert choose_frames(regular(51), Sampling(frames=None, fps=1.0)).tolist() == [0, 25, 50]


def test_rate_above_the_files_own_takes_every_frame_once() -> None:
    assert choose_frames(regular(30), Sampling(frames=None, fps=1e9)).tolist() == list(range(30))
    assert choose_frames(regular(30), Sampling(frames=None, fps=25.0)).tolist() == list(range(30))


def test_max_frames_bounds_both_kinds() -> None:
    assert choose_frames(regular(101), Sampling(50, max_frames=5)).tolist() == [0, 25, 50, 75, 100]
    assert choose_frames(regular(101), Sampling(frames=None, fps=25.0, max_frames=2)).tolist() == [0, 100]


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"frames": -3},
        {"frames": True},
        {"frames": 2.5},
        {"frames": None},
        {"fps": 2.0},
        {"frames": None, "fps": 0.0},
        {"frames": None, "fps": float("nan")},
        {"frames": None, "fps": float("inf")},
        {"max_frames": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float | None]) -> None:
    with pytest.raises(ValueError, match=r"frames|fps"):
        Sampling(**wrong)  # type: ignore[arg-type]
