# SPDX-License-Identifier: Apache-2.0
"""The little world: exact, deterministic, fair to the questions that are asked about it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from vidcomp.bench.world import seeds
from vidcomp.bench.world.files import read_samples, seconds_of, write_mp4
from vidcomp.bench.world.questions import ALL_KINDS, KINDS, PHRASINGS, make_questions
from vidcomp.bench.world.render import DIGIT_LABEL, label_map, render
from vidcomp.bench.world.videos import DIRECTIONS, WIDE, Options, digit_at, make_video, sample_times, state
from vidcomp.bench.world.vocabulary import DIGITS, UNK, VOCABULARY, encode

SEEDS = range(200)


def test_a_seed_always_gives_the_same_video_questions_and_pixels() -> None:
    for seed in range(5):
        first, second = make_video(seed), make_video(seed)
        assert first == second
        asked = [make_questions(video, random.Random(seed)) for video in (first, second)]
        assert asked[0] == asked[1]
        frames = [render(video, sample_times(8), 64, 48) for video in (first, second)]
        assert np.array_equal(*frames)


@pytest.mark.parametrize("options", [Options(frames=4), Options(), WIDE], ids=["four", "eight", "wide"])
def test_every_event_has_a_sample_before_and_one_after_it_in_its_scene(options: Options) -> None:
    for seed in SEEDS:
        video = make_video(seed, options)
        for index, scene in enumerate(video.scenes):
            assert scene.event is not None
            times = [t for t in sample_times(options.frames) if video.scene_at(t) == index]
            assert times[0] < scene.event.start < times[-1]
            assert scene.event.start + scene.event.duration <= times[-1]


@pytest.mark.parametrize("options", [Options(pan=0.0), replace(WIDE, pan=0.0)], ids=["small", "wide"])
def test_objects_stay_in_the_frame_and_apart(options: Options) -> None:
    for seed in SEEDS:
        video = make_video(seed, options)
        for time in sample_times(30):
            sights = state(video, time)
            for i, a in enumerate(sights):
                assert 0 <= a.x - a.radius / video.aspect and a.x + a.radius / video.aspect <= 1
                assert 0 <= a.y - a.radius and a.y + a.radius <= 1
                for b in sights[:i]:
                    assert math.hypot((a.x - b.x) * video.aspect, a.y - b.y) > a.radius + b.radius


def test_colours_and_shapes_are_unique_within_a_video() -> None:
    for seed in SEEDS:
        things = [thing for scene in make_video(seed).scenes for thing in scene.things]
        assert len({t.color for t in things}) == len({t.shape for t in things}) == len(things)


def test_moves_go_where_the_answer_says() -> None:
    for seed in SEEDS:
        video = make_video(seed, Options(scenes=(1,), pan=0.0, kinds=tuple(DIRECTIONS)))
        event = video.scenes[0].event
        assert event is not None
        before, after = (next(s for s in state(video, t) if s.thing == event.thing) for t in (0.0, 1.0))
        dx, dy = DIRECTIONS[event.kind]
        assert (after.x - before.x) * dx + (after.y - before.y) * dy == pytest.approx(event.distance)


def test_labels_cover_the_objects_at_their_place() -> None:
    for seed in range(20):
        video = make_video(seed)
        labels, sights = label_map(video, 0.5, 96)
        for number, sight in enumerate(sights, start=1):
            rows, columns = np.nonzero(labels == number)
            assert abs((columns.mean() + 0.5) / 96 - sight.x) < 0.03
            assert abs((rows.mean() + 0.5) / 96 - sight.y) < 0.04


@pytest.mark.parametrize(("options", "kinds"), [(Options(), KINDS), (WIDE, ALL_KINDS)], ids=["small", "wide"])
def test_all_kinds_are_asked_in_words_the_model_knows(options: Options, kinds: tuple[str, ...]) -> None:
    asked = set()
    for seed in SEEDS:
        for question in make_questions(make_video(seed, options), random.Random(seed), kinds):
            asked.add(question.kind)
            assert VOCABULARY[UNK] not in encode(f"{question.text} {question.answer}")
    assert asked == set(kinds) <= set(PHRASINGS)


def test_the_small_world_has_none_of_the_wide_one() -> None:
    for seed in SEEDS:
        video = make_video(seed)
        assert video.digit is None and len(video.scenes) <= 2
        assert all(scene.event and scene.event.kind != "grow" for scene in video.scenes)


def test_a_growing_object_ends_larger() -> None:
    for seed in range(40):
        video = make_video(seed, Options(scenes=(1,), kinds=("grow",)))
        event = video.scenes[0].event
        assert event is not None
        before, after = (next(s for s in state(video, t) if s.thing == event.thing) for t in (0.0, 1.0))
        assert after.radius == pytest.approx(event.growth * before.radius) and event.growth >= 1.5


def test_one_or_two_samples_witness_a_digit_and_the_answer_names_it() -> None:
    for seed in SEEDS:
        video = make_video(seed, replace(WIDE, digit=1.0))
        assert video.digit is not None
        shown = [time for time in sample_times(8) if digit_at(video, time)]
        assert 1 <= len(shown) <= 2
        (question,) = make_questions(video, random.Random(seed), ("digit",))
        assert question.answer == DIGITS[video.digit.value]
        with_it, without = (render(v, shown[:1], 96, 96, degrade=False)[0] for v in (video, replace(video, digit=None)))
        labels, _ = label_map(video, shown[0], 96)
        assert (with_it != without).any(-1).sum() > 0.5 * (labels == DIGIT_LABEL).sum() > 50
        assert not (with_it != without).any(-1)[labels != DIGIT_LABEL].any()


def test_changes_are_named_by_what_they_touch() -> None:
    for seed in SEEDS:
        video = make_video(seed, WIDE)
        for scene, question in zip(video.scenes, make_questions(video, random.Random(0), ("change",)), strict=True):
            a, b = (state(video, t) for t in (scene.start + 1e-6, scene.end - 1e-6))
            told = {
                "the color": [s.color for s in a] != [s.color for s in b],
                "the number of objects": len(a) != len(b),
            }
            told["the size"] = not told["the number of objects"] and any(
                q.radius > 1.2 * p.radius for p, q in zip(a, b, strict=True)
            )
            assert question.answer == "the position" or told[question.answer]


def test_the_end_is_the_last_event_and_the_caption_tells_all() -> None:
    for seed in SEEDS:
        asked = make_questions(make_video(seed), random.Random(seed))
        answers = {q.kind: q.answer for q in asked}
        assert answers["caption"].startswith(answers["first"])
        assert answers["caption"].endswith(answers["end"])


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted(
        (value for value in vars(seeds).values() if isinstance(value, range)), key=lambda values: values.start
    )
    assert len(ranges) >= 9
    assert all(a.stop <= b.start for a, b in pairwise(ranges))


def test_files_show_what_the_description_says(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("av")
    video = make_video(3)
    count = write_mp4(video, tmp_path / "a.mp4")
    assert count == round(seconds_of(video) * 25)
    frames = read_samples(tmp_path / "a.mp4", 8)
    expected = render(video, sample_times(8), frames.shape[2], frames.shape[1], degrade=True)
    assert np.abs(frames.astype(int) - expected).mean() < 12
