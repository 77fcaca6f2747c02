# SPDX-License-Identifier: Apache-2.0
"""Spans beside known cuts: parts of different clips are joined, so that every boundary is known, and sought again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidcomp.bench.clips import CLIPS
from vidcomp.bench.world.render import render
from vidcomp.bench.world.videos import Options, make_video
from vidcomp.engine.run import VideoLM
from vidcomp.errors import UsageError
from vidcomp.video.given import FrameSequence

__all__ = ["JOINTS", "SEGMENTERS", "JoinedClip", "SpanScore", "bench_spans", "joined_clip"]

JOINTS = {
    "cut": "parts of 3 frames and more, still ones of 8 and more, one after the other",
    "dissolve": "the same, and the last frame of a part is half the next one",
    "montage": "still parts of 1 to 3 frames",
}
"""Kinds of joined clips, in words."""

SEGMENTERS = ("tower", "luma", "dinov2", "clip")
RULES = ("gain", "fall")

_WIDTH, _HEIGHT = 320, 180
_STEP = 8  # frames of a part's own clip from one sampled frame to the next, 0.8 s
_STILL = 8  # frames of the shortest still part that may not be divided
_GRAIN = 2.0  # standard deviation of the camera's noise, in grey levels

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class JoinedClip:
    """Sampled frames of a clip with known cuts.

    Attributes:
        pixels: [T, h, w, 3].
        cuts: the first frame of every part but the first.
        still: (first, last) frame of each part in which nothing moves for ``_STILL`` frames and more.
    """

    pixels: Pictures
    cuts: tuple[int, ...]
    still: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SpanScore:
    """Boundaries that a segmenter found in clips of one kind.

    Attributes:
        joint: how the parts were joined.
        segmenter: what found them.
        rule: ``gain`` or ``fall``; empty with ``tower``, where the method finds its own.
        cuts: known cuts.
        hit: those with a boundary at most one sampled frame away.
        found: boundaries.
        right: those with a known cut at most one sampled frame away.
        still, whole: long still parts, and those of them in which no boundary lies.
    """

    joint: str
    segmenter: str
    rule: str = ""
    cuts: int = 0
    hit: int = 0
    found: int = 0
    right: int = 0
    still: int = 0
    whole: int = 0

    @property
    def recall(self) -> float:
        """Share of the known cuts that were found."""
        return self.hit / self.cuts if self.cuts else 1.0

    @property
    def precision(self) -> float:
        """Share of the boundaries that are cuts."""
        return self.right / self.found if self.found else 1.0

    def plus(self, clip: JoinedClip, starts: Sequence[int]) -> SpanScore:
        """The same with one more clip, in which spans begin at ``starts``."""
        bounds = [start for start in starts if start]
        inside = [any(first + 1 < start <= last for start in bounds) for first, last in clip.still]
        return replace(
            self, cuts=self.cuts + len(clip.cuts), found=self.found + len(bounds),
            hit=self.hit + _near(clip.cuts, bounds), right=self.right + _near(bounds, clip.cuts),
            still=self.still + len(clip.still), whole=self.whole + inside.count(False),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {**self.__dict__, "recall": round(self.recall, 4), "precision": round(self.precision, 4)}


def bench_spans(
    lm: VideoLM, joint: str, segmenters: Sequence[str], *, clips: int, frames: int, seed: int = 0
) -> list[SpanScore]:
    """Have the spans of joined clips found again, as the configured method is given them.

    Args:
        lm: a model; its tower gives the features that ``tower`` goes by.
        joint: how parts are joined, one of :data:`JOINTS`.
        segmenters: in the order of the result, each with both rules.
        clips: how many.
        frames: of each clip.
        seed: of the first clip; the others follow.
    """
    rows = [(name, rule) for name in segmenters for rule in (("",) if name == "tower" else RULES)]
    scores = {row: SpanScore(joint, *row) for row in rows}
    for number in range(seed, seed + clips):
        clip = joined_clip(number, frames, joint)
        encoded = lm.encode(FrameSequence(clip.pixels, fps=1.25), frames=frames, segmenter="tower")
        for (name, rule), score in scores.items():
            ruled = {"segmenter": name, "span_rule": rule or RULES[0], "skip_repeats": "off", "inner": "none"}
            spans = encoded.compress(**ruled).reduction.spans
            scores[name, rule] = score.plus(clip, [span.start for span in spans])
    return list(scores.values())


def joined_clip(seed: int, frames: int = 32, joint: str = "cut") -> JoinedClip:
    """Draw a clip: lengths, parts and their joints follow from the seed.

    Raises:
        UsageError: there is no such joint.
    """
    if joint not in JOINTS:
        raise UsageError(f"no joint {joint!r}", why=f"there are: {', '.join(JOINTS)}", code="bad_option")
    draw = np.random.default_rng(seed)
    lengths = _lengths(draw, frames, joint)
    kinds = ["still"] * len(lengths) if joint == "montage" else _kinds(draw, len(lengths))
    parts = [_part(kind, draw, length) for kind, length in zip(kinds, lengths, strict=True)]
    if joint == "dissolve":
        for part, following in itertools.pairwise(parts):
            part[-1] = (part[-1] + following[0]) / 2
    bounds = [0, *itertools.accumulate(lengths)]
    grained = np.concatenate(parts) + draw.normal(0, _GRAIN, (frames, _HEIGHT, _WIDTH, 3))
    still = tuple(
        (first, end - 1 - (joint == "dissolve"))
        for kind, (first, end) in zip(kinds, itertools.pairwise(bounds), strict=True)
        if kind == "still" and end - first >= _STILL
    )
    return JoinedClip(grained.round().clip(0, 255).astype(np.uint8), tuple(bounds[1:-1]), still)


def _lengths(draw: np.random.Generator, frames: int, joint: str) -> list[int]:
    shortest, longest = (1, 3) if joint == "montage" else (3, max(4, frames // 2))
    lengths: list[int] = []
    while (left := frames - sum(lengths)) > longest:
        lengths.append(int(draw.integers(shortest, min(longest, left - shortest) + 1)))
    return [*lengths, left]


def _kinds(draw: np.random.Generator, count: int) -> list[str]:
    """Kinds of parts, never the same twice running: two sets of slides would begin alike."""
    kinds: list[str] = []
    for _ in range(count):
        kinds.append(str(draw.choice([kind for kind in _PARTS if kind not in kinds[-1:]])))
    return kinds


def _part(kind: str, draw: np.random.Generator, count: int) -> NDArray[np.float32]:
    own = np.random.default_rng(int(draw.integers(1 << 30)))
    pictures = [cv2.resize(picture, (_WIDTH, _HEIGHT)) for picture in _PARTS[kind](own, count)]
    return np.stack(pictures).astype(np.float32)


def _of_clip(name: str) -> Callable[[np.random.Generator, int], Iterator[Pictures]]:
    return lambda draw, count: itertools.islice(itertools.cycle(CLIPS[name](draw)), 0, _STEP * count, _STEP)


def _still(draw: np.random.Generator, count: int) -> Iterator[Pictures]:
    return itertools.repeat(next(CLIPS["changing"](draw)), count)


def _world(draw: np.random.Generator, count: int) -> Iterator[Pictures]:
    """A scene of the little world, in which one thing happens to one object."""
    video = make_video(int(draw.integers(1 << 30)), Options(scenes=(1.0,)))
    return iter(render(video, np.linspace(0, 1, count).tolist(), _WIDTH, _HEIGHT))


_PARTS: dict[str, Callable[[np.random.Generator, int], Iterator[Pictures]]] = {
    "still": _still,
    "talking-head": _of_clip("talking-head"),
    "slides": _of_clip("slides"),
    "hand-held": _of_clip("hand-held"),
    "world": _world,
}


def _near(some: Sequence[int], others: Sequence[int]) -> int:
    """Number of ``some`` that have one of ``others`` at most one frame away."""
    return sum(any(abs(one - other) <= 1 for other in others) for one in some)
