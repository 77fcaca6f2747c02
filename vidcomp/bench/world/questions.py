# SPDX-License-Identifier: Apache-2.0
"""Questions about a video with exact answers, in several phrasings each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vidcomp.bench.world.videos import COLORS, DIRECTIONS, SHAPES, Scene, Video, state
from vidcomp.bench.world.vocabulary import DIGITS, NUMBERS


@dataclass(frozen=True)
class Reference:
    """An object of a video.

    Attributes:
        scene: index of the scene.
        thing: index of the object in its scene.
    """

    scene: int
    thing: int


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, and the objects that training aids may point at.

    Attributes:
        kind: type of question, a key of ``PHRASINGS``.
        text: the question.
        answer: the one right answer.
        named: the one object that the question names.
        about: the object that the answer is about.
        about_event: the answer is in the event of that object.
    """

    kind: str
    text: str
    answer: str
    named: Reference | None = None
    about: Reference | None = None
    about_event: bool = False


PHRASINGS: dict[str, tuple[str, ...]] = {
    "end": (
        "what happens at the end?",
        "what happens last?",
        "what happens at the end of the video?",
        "how does the video end?",
        "what is the last thing that happens?",
    ),
    "first": (
        "what happens first?",
        "what happens at the beginning?",
        "what happens at the start?",
        "what happens at the start of the video?",
        "what is the first thing that happens?",
    ),
    "after": ("what happens after {event}?", "what happens next after {event}?"),
    "order": ("which comes first, {a} or {b}?", "which object is seen first, {a} or {b}?"),
    "action": ("what does {it} do?", "what happens to {it}?"),
    "which": ("which object {does}?", "what {does}?", "which shape {does}?"),
    "direction": ("which way does {it} move?", "in which direction does {it} move?", "where does {it} go?"),
    "become": ("what color does {it} become?", "what color does {it} turn?"),
    "color": ("what color is the {shape}?", "what is the color of the {shape}?"),
    "shape": ("what shape is the {color} object?", "what is the shape of the {color} object?"),
    "count": ("how many objects are there at the {when}?", "how many shapes are there at the {when}?"),
    "exist": ("is there {one}?", "is there {one} in the video?", "do you see {one}?"),
    "where": ("where is {it} at the end?", "where is {it} in the last frame?"),
    "scenes": ("how many scenes are there?", "how many scenes does the video have?"),
    "caption": (
        "describe the video.",
        "what happens in the video?",
        "what is happening in the video?",
        "describe what happens.",
        "describe this video.",
    ),
    "digit": ("which digit is shown?", "what digit do you see?", "which number appears?"),
    "change": ("what changes in the {nth} scene?", "what is the change in the {nth} scene?"),
}
"""Every way a kind of question may be asked."""

ALL_KINDS = tuple(PHRASINGS)
KINDS = ALL_KINDS[:-2]
"""What the shipped model is asked: all but `digit` and `change`."""
STILL_KINDS = ("color", "shape", "count", "exist", "where")
"""Kinds that a single picture can answer."""


def make_questions(video: Video, rng: random.Random, kinds: Sequence[str] = KINDS) -> list[Question]:
    """All questions of the given kinds that this video can answer, phrasings drawn from `rng`."""
    return [question for kind in kinds for question in _MAKERS[kind](video, rng)]


def event_sentence(scene: Scene) -> str:
    """Sentence about the event of a scene, for example "the red circle moves left"."""
    if scene.event is None:
        raise ValueError("nothing happens in this scene")
    return f"the {scene.things[scene.event.thing].name} {scene.event.phrase}"


def _ask(kind: str, rng: random.Random, **slots: str) -> str:
    """One phrasing of a kind with its slots filled."""
    return rng.choice(PHRASINGS[kind]).format(**slots)


def _eventful(video: Video) -> list[tuple[int, Scene]]:
    """Scenes in which something happens, with their index."""
    return [(i, scene) for i, scene in enumerate(video.scenes) if scene.event is not None]


def _event_reference(index: int, scene: Scene) -> Reference:
    """The object of the event."""
    return Reference(index, scene.event.thing if scene.event else 0)


def _all_things(video: Video) -> list[tuple[Reference, str, str, str]]:
    """(reference, name, colour, shape) of every object."""
    return [
        (Reference(i, j), thing.name, thing.color, thing.shape)
        for i, scene in enumerate(video.scenes)
        for j, thing in enumerate(scene.things)
    ]


def _turns(video: Video, reference: Reference) -> bool:
    """True if this object changes its colour."""
    event = video.scenes[reference.scene].event
    return event is not None and event.kind == "turn" and event.thing == reference.thing


def _one(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _end(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in _eventful(video)[-1:]:
        yield Question("end", _ask("end", rng), event_sentence(scene), None, _event_reference(index, scene), True)


def _first(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in _eventful(video)[:1]:
        yield Question("first", _ask("first", rng), event_sentence(scene), None, _event_reference(index, scene), True)


def _after(video: Video, rng: random.Random) -> Iterator[Question]:
    happening = _eventful(video)
    for (i, before), (j, scene) in pairwise(happening):
        text = _ask("after", rng, event=event_sentence(before))
        about = _event_reference(j, scene)
        yield Question("after", text, event_sentence(scene), _event_reference(i, before), about, True)


def _order(video: Video, rng: random.Random) -> Iterator[Question]:
    if len(video.scenes) < 2:
        return
    first, second = sorted(rng.sample(range(len(video.scenes)), 2))
    early, late = (rng.randrange(len(video.scenes[i].things)) for i in (first, second))
    names = [f"the {video.scenes[first].things[early].name}", f"the {video.scenes[second].things[late].name}"]
    a, b = rng.sample(names, 2)
    yield Question("order", _ask("order", rng, a=a, b=b), names[0], None, Reference(first, early))


def _action(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in enumerate(video.scenes):
        event = scene.event
        number = event.thing if event and rng.random() < 0.65 else rng.randrange(len(scene.things))
        acts = event is not None and event.thing == number
        answer = f"it {event.phrase}" if event and acts else "it stays still"
        reference = Reference(index, number)
        text = _ask("action", rng, it=f"the {scene.things[number].name}")
        yield Question("action", text, answer, reference, reference, acts)


def _which(video: Video, rng: random.Random) -> Iterator[Question]:
    phrases = [scene.event.phrase for scene in video.scenes if scene.event]
    for index, scene in _eventful(video):
        if scene.event and phrases.count(scene.event.phrase) == 1:
            answer = f"the {scene.things[scene.event.thing].name}"
            text = _ask("which", rng, does=scene.event.phrase)
            yield Question("which", text, answer, None, _event_reference(index, scene), True)


def _direction(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in _eventful(video):
        if scene.event and scene.event.kind in DIRECTIONS:
            reference = _event_reference(index, scene)
            text = _ask("direction", rng, it=f"the {scene.things[reference.thing].name}")
            yield Question("direction", text, scene.event.kind, reference, reference, True)


def _become(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in _eventful(video):
        if scene.event and scene.event.kind == "turn":
            reference = _event_reference(index, scene)
            text = _ask("become", rng, it=f"the {scene.things[reference.thing].name}")
            yield Question("become", text, scene.event.to_color, reference, reference, True)


def _color(video: Video, rng: random.Random) -> Iterator[Question]:
    for reference, _, color, shape in _all_things(video):
        if not _turns(video, reference):
            yield Question("color", _ask("color", rng, shape=shape), color, reference, reference)


def _shape(video: Video, rng: random.Random) -> Iterator[Question]:
    for reference, _, color, shape in _all_things(video):
        yield Question("shape", _ask("shape", rng, color=color), shape, reference, reference)


def _count(video: Video, rng: random.Random) -> Iterator[Question]:
    for when, time in (("start", 0.0), ("end", 1.0)):
        yield Question("count", _ask("count", rng, when=when), NUMBERS[len(state(video, time))])


def _exist(video: Video, rng: random.Random) -> Iterator[Question]:
    things = _all_things(video)
    reference, name, color, shape = rng.choice(things)
    yield Question("exist", _ask("exist", rng, one=_one(name)), "yes", reference, reference)
    real = {(c, s) for _, _, c, s in things}
    real |= {(e.to_color, s.things[e.thing].shape) for s in video.scenes if (e := s.event) and e.kind == "turn"}
    absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in real]
    near = [pair for pair in absent if (pair[0] == color) != (pair[1] == shape)]
    other = rng.choice(near if rng.random() < 0.7 else absent)
    yield Question("exist", _ask("exist", rng, one=_one(" ".join(other))), "no")


def _where(video: Video, rng: random.Random) -> Iterator[Question]:
    for sight in state(video, 1.0):
        reference = Reference(sight.scene, sight.thing)
        if abs(sight.x - 0.5) > 0.08 and abs(sight.y - 0.5) > 0.08 and not _turns(video, reference):
            answer = f"{'top' if sight.y < 0.5 else 'bottom'} {'left' if sight.x < 0.5 else 'right'}"
            text = _ask("where", rng, it=f"the {sight.color} {sight.shape}")
            yield Question("where", text, answer, reference, reference)


def _scenes(video: Video, rng: random.Random) -> Iterator[Question]:
    yield Question("scenes", _ask("scenes", rng), NUMBERS[len(video.scenes)])


def _caption(video: Video, rng: random.Random) -> Iterator[Question]:
    if all(scene.event is not None for scene in video.scenes):
        yield Question("caption", _ask("caption", rng), ", then ".join(map(event_sentence, video.scenes)))


def _digit(video: Video, rng: random.Random) -> Iterator[Question]:
    if video.digit is not None:
        yield Question("digit", _ask("digit", rng), DIGITS[video.digit.value])


_CHANGES = {"turn": "the color", "grow": "the size", **dict.fromkeys(DIRECTIONS, "the position")}


def _change(video: Video, rng: random.Random) -> Iterator[Question]:
    for index, scene in _eventful(video):
        text = _ask("change", rng, nth=("first", "second", "third")[index])
        answer = _CHANGES.get(scene.event.kind if scene.event else "", "the number of objects")
        yield Question("change", text, answer, None, _event_reference(index, scene), True)


_MAKERS: dict[str, Callable[[Video, random.Random], Iterator[Question]]] = {
    "end": _end,
    "first": _first,
    "after": _after,
    "order": _order,
    "action": _action,
    "which": _which,
    "direction": _direction,
    "become": _become,
    "color": _color,
    "shape": _shape,
    "count": _count,
    "exist": _exist,
    "where": _where,
    "scenes": _scenes,
    "caption": _caption,
    "digit": _digit,
    "change": _change,
}
