"""The little world: exact, deterministic, fair to the questions that are asked about it."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from vidcomp.nano import seeds
from vidcomp.nano.files import read_samples, seconds_of, write_mp4
from vidcomp.nano.questions import KINDS, PHRASINGS, make_questions
from vidcomp.nano.render import label_map, render
from vidcomp.nano.vocabulary import UNK, VOCABULARY, encode
from vidcomp.nano.world import DIRECTIONS, Options, make_video, sample_times, state

SEEDS = range(200)


def test_a_seed_always_gives_the_same_video_questions_and_pixels() -> None:
    for seed in range(5):
        first, second = make_video(seed), make_video(seed)
        assert first == second
        asked = [make_questions(video, random.Random(seed)) for video in (first, second)]
        assert asked[0] == asked[1]
        frames = [render(video, sample_times(8), 64, 48) for video in (first, second)]
        assert np.array_equal(*frames)


@pytest.mark.parametrize("frames", [4, 8])
def test_every_event_has_a_sample_before_and_one_after_it_in_its_scene(frames: int) -> None:
    for seed in SEEDS:
        video = make_video(seed, Options(frames=frames))
        for index, scene in enumerate(video.scenes):
            assert scene.event is not None
            times = [t for t in sample_times(frames) if video.scene_at(t) == index]
            assert times[0] < scene.event.start < times[-1]
            assert scene.event.start + scene.event.duration <= times[-1]


def test_objects_stay_in_the_frame_and_apart() -> None:
    for seed in SEEDS:
        video = make_video(seed, Options(pan=0.0))
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


def test_all_kinds_are_asked_in_words_the_model_knows() -> None:
    kinds = set()
    for seed in SEEDS:
        for question in make_questions(make_video(seed), random.Random(seed)):
            kinds.add(question.kind)
            assert VOCABULARY[UNK] not in encode(f"{question.text} {question.answer}")
    assert kinds == set(KINDS) == set(PHRASINGS)


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
