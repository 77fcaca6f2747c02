# SPDX-License-Identifier: Apache-2.0
"""The little world: scene descriptions in continuous time, and the exact state at any moment.

Time runs from 0 (first frame) to 1 (last frame). Positions are fractions of the frame, radii are fractions of the
frame height, so one description renders undistorted at any size, aspect ratio and frame rate. A video has one to three
scenes separated by hard cuts; a scene holds a few coloured shapes, and exactly one thing happens in it (or nothing,
in a still). Colours and shapes are unique within a video, so that a reference such as "the circle" is unambiguous.
A digit may flash up for a moment, which only few samples witness.

`Options()` is the world that the shipped model knows, `WIDE` the whole one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "green": (45, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 215, 50),
    "purple": (140, 50, 165),
    "orange": (240, 135, 30),
    "cyan": (60, 205, 215),
    "pink": (245, 150, 190),
}
"""Name to RGB of the eight object colours."""

SHAPES = ("circle", "square", "triangle", "ring", "cross")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
KINDS = ("appear", "disappear", "turn", *DIRECTIONS)
"""What can happen in a scene: an object appears, disappears, turns another colour, or moves in a direction."""
ALL_KINDS = (*KINDS, "grow")
"""The same, and an object may grow."""

_MARGIN = 0.15  # share of a sampling gap kept free on both sides of an event or cut
_ATTEMPTS = 200


@dataclass(frozen=True)
class Thing:
    """A coloured shape at its place at the start of the scene.

    Attributes:
        color, shape: words of the world's vocabulary.
        radius: in frame heights.
        x, y: centre, in fractions of the frame.
    """

    color: str
    shape: str
    radius: float
    x: float
    y: float

    @property
    def name(self) -> str:
        """Name in questions and answers, for example "red circle"."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Event:
    """The one thing that happens in a scene, to the object with index `thing`.

    Attributes:
        kind: a direction of moving, or one of the other events.
        thing: index of the object in its scene.
        start, duration: in seconds.
        distance: of a move, in fractions of the frame.
        growth: last radius over first radius.
        to_color: colour after a turn.
    """

    kind: str
    thing: int
    start: float
    duration: float = 0.0
    distance: float = 0.0
    growth: float = 1.0
    to_color: str = ""

    @property
    def phrase(self) -> str:
        """The predicate, for example "moves left" or "turns blue"."""
        if self.kind in DIRECTIONS:
            return f"moves {self.kind}"
        return f"turns {self.to_color}" if self.kind == "turn" else f"{self.kind}s"


@dataclass(frozen=True)
class Digit:
    """A white digit on a black card, shown for a moment in front of everything.

    Attributes:
        value: 0 to 9.
        start, end: time shown, in seconds.
        x, y: centre, in fractions of the frame.
        size: height of the card in frame heights.
    """

    value: int
    start: float
    end: float
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """A stretch between two cuts.

    Attributes:
        start, end: in seconds.
        things: the objects.
        event: the one thing that happens; None when nothing does.
        pan: movement of the camera over the scene, in fractions of the frame.
        background: seed of its texture.
    """

    start: float
    end: float
    things: tuple[Thing, ...]
    event: Event | None
    pan: tuple[float, float]
    background: int


@dataclass(frozen=True)
class Look:
    """Degradation of the picture.

    Attributes:
        brightness: factor on all pixels.
        noise: standard deviation, in pixel values.
        blur: its strength; up to 0.6 there is none.
        jpeg: quality of the round trip; from 88 on there is none.
    """

    brightness: float
    noise: float
    blur: float
    jpeg: int


@dataclass(frozen=True)
class Video:
    """A complete description; everything else follows from it.

    Attributes:
        seed: of all that is drawn by chance.
        aspect: width over height.
        scenes: stretches between cuts, in order.
        look: degradation of the picture.
        digit: digit that flashes up; None without one.
    """

    seed: int
    aspect: float
    scenes: tuple[Scene, ...]
    look: Look
    digit: Digit | None = None

    def scene_at(self, time: float) -> int:
        """Index of the scene shown at `time`."""
        return max(i for i, scene in enumerate(self.scenes) if i == 0 or scene.start <= time + 1e-9)


@dataclass(frozen=True)
class Sight:
    """An object as it is visible at one moment.

    Attributes:
        scene: index of the scene.
        thing: index of the object in its scene.
        color, shape, radius, x, y: as :class:`Thing` has them, at this moment.
    """

    scene: int
    thing: int
    color: str
    shape: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Options:
    """Difficulty of the videos that are drawn.

    Attributes:
        frames: uniform samples that must witness every event; 1 draws a still.
        scenes: weights of 1, 2, ... scenes.
        things: weights of 1, 2, ... objects in a scene.
        kinds: events that may happen.
        radius: smallest and largest object, in frame heights.
        pan: probability that the camera pans in a scene.
        aspects: width over height, to draw from.
        digit: probability that a digit flashes up.
    """

    frames: int = 8
    scenes: tuple[float, ...] = (0.4, 0.6)
    things: tuple[float, ...] = (0.4, 0.5, 0.1)
    kinds: tuple[str, ...] = KINDS
    radius: tuple[float, float] = (0.11, 0.17)
    pan: float = 0.08
    aspects: tuple[float, ...] = field(default=(4 / 3, 4 / 3, 4 / 3, 1.0))
    digit: float = 0.0


WIDE = Options(scenes=(0.3, 0.5, 0.2), kinds=ALL_KINDS, digit=0.6)
"""Everything the world can do; more than the shipped model has learnt."""


def sample_times(count: int) -> list[float]:
    """Moments of `count` uniform samples, both ends included."""
    return [0.0] if count == 1 else [i / (count - 1) for i in range(count)]


def make_video(seed: int, options: Options | None = None) -> Video:
    """Draw the video of a seed: the same seed and options always give the same description."""
    options = options or Options()
    rng = random.Random(seed)
    aspect = rng.choice(options.aspects)
    look = Look(rng.uniform(0.88, 1.12), rng.choice([0.0, rng.uniform(1, 8)]), rng.random(), rng.randrange(35, 100))
    colors, shapes = rng.sample(list(COLORS), len(COLORS)), rng.sample(SHAPES, len(SHAPES))
    spans = _draw_spans(rng, options)
    scenes: list[Scene] = []
    for index, (first, last, start, end) in enumerate(spans):
        limit = len(shapes) - (len(spans) - 1 - index)
        count = min(limit, _weighted(rng, options.things))
        scene = _draw_scene(rng, options, aspect, (first, last, start, end), colors[:count], shapes[:count])
        del colors[:count], shapes[:count]
        if scene.event and scene.event.kind == "turn":
            scene = replace(scene, event=replace(scene.event, to_color=colors.pop(0)))
        scenes.append(scene)
    video = Video(seed, aspect, tuple(scenes), look)
    if options.digit and rng.random() < options.digit:
        video = replace(video, digit=_draw_digit(rng, options, video))
    return video


def state(video: Video, time: float) -> list[Sight]:
    """Every visible object at `time`, camera pan included."""
    index = video.scene_at(time)
    scene = video.scenes[index]
    pan_x, pan_y = pan_offset(scene, time)
    sights = []
    for number, thing in enumerate(scene.things):
        color, radius, x, y, visible = _thing_at(scene, number, time)
        if visible:
            sights.append(Sight(index, number, color, thing.shape, radius, x + pan_x, y + pan_y))
    return sights


def digit_at(video: Video, time: float) -> Digit | None:
    """The digit, if it is shown at `time`."""
    digit = video.digit
    return digit if digit is not None and digit.start <= time < digit.end else None


def pan_offset(scene: Scene, time: float) -> tuple[float, float]:
    """Displacement of everything in the picture by the camera, zero in the middle of the scene."""
    share = (time - scene.start) / max(scene.end - scene.start, 1e-6) - 0.5
    return scene.pan[0] * share, scene.pan[1] * share


def _thing_at(scene: Scene, number: int, time: float) -> tuple[str, float, float, float, bool]:
    """Colour, radius, place and visibility of one object, without the pan."""
    thing, event = scene.things[number], scene.event
    if event is None or event.thing != number:
        return thing.color, thing.radius, thing.x, thing.y, True
    share = min(max((time - event.start) / max(event.duration, 1e-6), 0.0), 1.0)
    if event.kind in DIRECTIONS:
        dx, dy = (step * event.distance * share for step in DIRECTIONS[event.kind])
        return thing.color, thing.radius, thing.x + dx, thing.y + dy, True
    if event.kind == "grow":
        return thing.color, thing.radius * (1 + (event.growth - 1) * share), thing.x, thing.y, True
    after = time >= event.start
    if event.kind == "turn":
        return (event.to_color if after else thing.color), thing.radius, thing.x, thing.y, True
    return thing.color, thing.radius, thing.x, thing.y, after == (event.kind == "appear")


def _weighted(rng: random.Random, weights: Sequence[float]) -> int:
    """Draw 1, 2, ... with the given weights."""
    return rng.choices(range(1, len(weights) + 1), weights)[0]


def _draw_spans(rng: random.Random, options: Options) -> list[tuple[int, int, float, float]]:
    """(first sample, last sample, start, end) of every scene; each scene holds three samples, or two if it must."""
    count, frames = _weighted(rng, options.scenes), options.frames
    if count == 1 or frames < 6:
        return [(0, frames - 1, 0.0, 1.0)]
    least = min(3, frames // count)
    while True:
        cuts = sorted(rng.sample(range(1, frames), count - 1))
        bounds = [0, *cuts, frames]
        if all(b - a >= least for a, b in pairwise(bounds)):
            break
    gap = 1 / (frames - 1)
    times = [0.0, *((cut - 1 + rng.uniform(_MARGIN, 1 - _MARGIN)) * gap for cut in cuts), 1.0]
    return [(bounds[i], bounds[i + 1] - 1, times[i], times[i + 1]) for i in range(count)]


def _draw_scene(
    rng: random.Random,
    options: Options,
    aspect: float,
    span: tuple[int, int, float, float],
    colors: Sequence[str],
    shapes: Sequence[str],
) -> Scene:
    """One scene in which nothing overlaps, at any moment."""
    first, last, start, end = span
    pan = _draw_pan(rng) if rng.random() < options.pan else (0.0, 0.0)
    for shrink in range(_ATTEMPTS):
        scale = 0.99 ** max(0, shrink - 20)
        things = tuple(
            _draw_thing(rng, color, shape, rng.uniform(*options.radius) * scale, aspect)
            for color, shape in zip(colors, shapes, strict=True)
        )
        event = _draw_event(rng, options, things, first, last, aspect) if last > first else None
        scene = Scene(start, end, things, event, pan, rng.randrange(1 << 30))
        if (event is not None or last == first) and _is_clear(scene, aspect):
            return scene
    raise RuntimeError("no scene without overlap was found")


def _draw_pan(rng: random.Random) -> tuple[float, float]:
    """A slow camera pan over at most 7 % of the frame."""
    size = rng.choice([-1, 1]) * rng.uniform(0.03, 0.07)
    return (size, 0.0) if rng.random() < 0.5 else (0.0, size)


def _draw_thing(rng: random.Random, color: str, shape: str, radius: float, aspect: float) -> Thing:
    """An object inside the frame."""
    wide = radius / aspect
    x, y = rng.uniform(wide + 0.02, 0.98 - wide), rng.uniform(radius + 0.02, 0.98 - radius)
    return Thing(color, shape, radius, x, y)


def _draw_event(
    rng: random.Random, options: Options, things: Sequence[Thing], first: int, last: int, aspect: float
) -> Event | None:
    """An event with a sample before it and one after it inside the scene, or None if it would leave the frame."""
    gap = 1 / (options.frames - 1)
    kind, number = rng.choice(options.kinds), rng.randrange(len(things))
    start = (rng.randint(first, last - 1) + rng.uniform(_MARGIN, 1 - _MARGIN)) * gap
    thing, longest = things[number], min(last * gap - start - 0.01, 0.25)
    x, y, radius, distance, growth = thing.x, thing.y, thing.radius, 0.0, 1.0
    if kind in DIRECTIONS:
        distance = rng.uniform(0.3, 0.6)
        x, y = thing.x + DIRECTIONS[kind][0] * distance, thing.y + DIRECTIONS[kind][1] * distance
    elif kind == "grow":
        growth = rng.uniform(1.5, 1.9)
        radius *= growth
    else:
        return Event(kind, number, start)
    wide = radius / aspect
    if not (wide < x < 1 - wide and radius < y < 1 - radius):
        return None
    return Event(kind, number, start, rng.uniform(0.3, 1.0) * longest, distance, growth)


def _draw_digit(rng: random.Random, options: Options, video: Video) -> Digit:
    """A digit that one or two samples witness, beside the objects if there is room."""
    gap = 1 / max(1, options.frames - 1)
    sample, length = rng.randrange(options.frames), rng.uniform(0.9, 1.6) * gap
    start = sample * gap - rng.uniform(0.05, 0.85) * gap
    size, value = rng.uniform(0.2, 0.26), rng.randrange(10)
    sights = [sight for time in (start, start + length) for sight in state(video, min(max(time, 0.0), 1.0))]
    for _ in range(_ATTEMPTS):
        x, y = (rng.uniform(0.6 * size, 1 - 0.6 * size) for _ in range(2))
        if all(math.hypot((x - s.x) * video.aspect, y - s.y) > 0.75 * size + s.radius for s in sights):
            break
    return Digit(value, start, start + length, x, y, size)


def _is_clear(scene: Scene, aspect: float) -> bool:
    """True if no two objects touch, along the whole path of a moving or growing one."""
    event = scene.event
    moments = [0.0]
    if event is not None and event.duration:
        moments = [event.start + event.duration * share for share in (0, 0.25, 0.5, 0.75, 1)]
    for time in moments:
        places = [_thing_at(scene, i, time)[1:4] for i in range(len(scene.things))]
        for i, (ra, xa, ya) in enumerate(places):
            if any(math.hypot((xa - xb) * aspect, ya - yb) < 1.12 * (ra + rb) for rb, xb, yb in places[:i]):
                return False
    return True
