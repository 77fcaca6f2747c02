# SPDX-License-Identifier: Apache-2.0
"""Clips for timing, drawn from a seed: one that repeats a lot, one that moves, one that never repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import UsageError

__all__ = ["CLIPS", "write_clip"]

Picture = NDArray[np.uint8]
_FPS, _SECONDS, _HEIGHT, _WIDTH = 10, 24, 360, 640
_GRAIN = 2.0  # standard deviation of the camera's noise, in grey levels


def _texture(draw: np.random.Generator, height: int, width: int) -> Picture:
    """A smooth picture with detail of several sizes."""
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40):
        grid = draw.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 3
    return total.clip(0, 255).astype(np.uint8)


def _talking_head(draw: np.random.Generator) -> Iterator[Picture]:
    """A still room; a head that sways a little, blinks and speaks."""
    room = _texture(draw, _HEIGHT, _WIDTH)
    cv2.ellipse(room, (320, 400), (150, 130), 0, 0, 360, (60, 70, 120), -1)
    for index in range(_FPS * _SECONDS):
        x, y = 320 + round(5 * np.sin(index / 9)), 170 + round(3 * np.sin(index / 5))
        picture = room.copy()
        cv2.ellipse(picture, (x, y), (62, 82), 0, 0, 360, (205, 165, 140), -1)
        for side in (-24, 24):
            cv2.ellipse(picture, (x + side, y - 18), (9, 1 if index % 37 < 2 else 6), 0, 0, 360, (40, 40, 50), -1)
        cv2.ellipse(picture, (x, y + 40), (20, 3 + round(draw.uniform(0, 12))), 0, 0, 360, (120, 40, 50), -1)
        yield picture


def _slides(draw: np.random.Generator) -> Iterator[Picture]:
    """Two slides whose lines appear one by one, and a pointer."""
    frames, lines = _FPS * _SECONDS, 4
    for index in range(frames):
        slide, place = divmod(2 * index, frames)
        picture = np.full((_HEIGHT, _WIDTH, 3), 244 - 12 * slide, np.uint8)
        cv2.putText(picture, f"Part {slide + 1}", (40, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (30, 30, 90), 3)
        for line in range(1 + place * lines // frames):
            text = f"{line + 1}. what was found in case {7 * line + slide}"
            cv2.putText(picture, text, (60, 130 + 55 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 20, 20), 2)
        at = (520 + round(30 * np.sin(index / 30)), 300 + round(20 * np.cos(index / 30)))
        cv2.circle(picture, at, 5, (200, 30, 30), -1)
        yield picture


def _hand_held(draw: np.random.Generator) -> Iterator[Picture]:
    """A large still scene through a camera that shakes and wanders."""
    scene, (x, y) = _texture(draw, 2 * _HEIGHT, 2 * _WIDTH), (200.0, 120.0)
    for _ in range(_FPS * _SECONDS):
        x, y = (float(np.clip(value + draw.normal(0, 1.5), 0, top)) for value, top in ((x, _WIDTH), (y, _HEIGHT)))
        yield scene[round(y) : round(y) + _HEIGHT, round(x) : round(x) + _WIDTH]


def _changing(draw: np.random.Generator) -> Iterator[Picture]:
    """Another picture every half second."""
    for _ in range(2 * _SECONDS):
        picture = _texture(draw, _HEIGHT, _WIDTH)
        yield from [picture] * (_FPS // 2)


CLIPS: dict[str, Callable[[np.random.Generator], Iterator[Picture]]] = {
    "talking-head": _talking_head,
    "slides": _slides,
    "hand-held": _hand_held,
    "changing": _changing,
}
"""Clips by name."""


def write_clip(name: str, path: Path, seed: int = 0) -> None:
    """Draw a clip with the grain of a camera and encode it as H.264.

    Raises:
        UsageError: there is no clip of that name.
    """
    import av

    if name not in CLIPS:
        raise UsageError(f"no clip {name!r}", why=f"there are: {', '.join(CLIPS)}", code="bad_option")
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.time_base, stream.options = Fraction(1, _FPS), {"crf": "23"}
        for picture in CLIPS[name](draw):
            grained = picture + draw.normal(0, _GRAIN, picture.shape)
            image = grained.round().clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
