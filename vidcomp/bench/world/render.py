# SPDX-License-Identifier: Apache-2.0
"""Pixels of a video description at any size and frame rate, and label maps for dense supervision.

A frame whose width to height ratio equals the aspect of the video shows undistorted shapes; any other size shows the
same picture squashed, which is what the vision tower sees.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vidcomp.bench.world.videos import COLORS, Digit, Look, Scene, Sight, Video, digit_at, pan_offset, state

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

DIGIT_LABEL = 255
"""Label of the pixels of a digit's card."""

_SUBPIXEL = 4  # bits of sub-pixel precision handed to OpenCV
_OVERSIZE = 1.16  # backgrounds are drawn larger than the frame, so that the camera can pan
_NOISE = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)


def render(video: Video, times: Sequence[float], width: int, height: int, degrade: bool = True) -> Image:
    """Frames uint8 RGB [T, height, width, 3] at the given moments (0 = first frame, 1 = last frame)."""
    rng = random.Random(video.seed + 1)
    palette = {name: _jitter(rng, rgb) for name, rgb in COLORS.items()}
    backgrounds: dict[int, Floats] = {}
    frames = np.empty((len(times), height, width, 3), np.uint8)
    for i, time in enumerate(times):
        index = video.scene_at(time)
        if index not in backgrounds:
            backgrounds[index] = _background(video.scenes[index].background, width, height)
        frame = _crop(backgrounds[index], video.scenes[index], time, width, height)
        for sight in state(video, time):
            _draw(frame, sight, palette[sight.color], video.aspect)
        digit = digit_at(video, time)
        if digit is not None:
            _draw_card(frame, digit, video.aspect)
        frames[i] = _degrade(frame, video.look, rng) if degrade else frame
    return frames


def label_map(video: Video, time: float, size: int) -> tuple[Image, list[Sight]]:
    """Index of the object that covers each pixel of the squashed square frame.

    Returns uint8 [size, size], 0 for background, i for the object sights[i - 1], 255 for a digit, and those sights.
    """
    labels = np.zeros((size, size), np.uint8)
    sights = state(video, time)
    for number, sight in enumerate(sights, start=1):
        _draw(labels, sight, (float(number),), video.aspect, antialias=False)
    digit = digit_at(video, time)
    if digit is not None:
        rows, columns = _card_box(digit, size, size, video.aspect)
        labels[rows, columns] = DIGIT_LABEL
    return labels, sights


def _jitter(rng: random.Random, rgb: tuple[int, int, int]) -> tuple[float, ...]:
    """The colour as this video shows it."""
    return tuple(float(min(255, max(0, value + rng.uniform(-14, 14)))) for value in rgb)


def _draw(canvas: Image, sight: Sight, color: tuple[float, ...], aspect: float, antialias: bool = True) -> None:
    """Fill the outline of one object into canvas [h, w, 3] or [h, w], in place."""
    height, width = canvas.shape[:2]
    scale = np.array([sight.radius * width / aspect, sight.radius * height])
    center = np.array([sight.x * width, sight.y * height]) - 0.5
    contours = [
        np.round((part * scale + center) * (1 << _SUBPIXEL)).astype(np.int32) for part in _OUTLINES[sight.shape]
    ]
    cv2.fillPoly(canvas, contours, color, cv2.LINE_AA if antialias else cv2.LINE_8, _SUBPIXEL)


def _card_box(digit: Digit, width: int, height: int, aspect: float) -> tuple[slice, slice]:
    """Rows and columns of the card in a frame; its width is three quarters of its height."""
    tall, wide = digit.size * height, 0.75 * digit.size / aspect * width
    top, left = round(digit.y * height - tall / 2), round(digit.x * width - wide / 2)
    return slice(max(0, top), top + round(tall)), slice(max(0, left), left + round(wide))


def _draw_card(frame: Image, digit: Digit, aspect: float) -> None:
    """Put the digit into frame [h, w, 3], in place."""
    rows, columns = _card_box(digit, frame.shape[1], frame.shape[0], aspect)
    room = frame[rows, columns]
    if room.size:
        room[:] = cv2.resize(_card(digit.value), room.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]


@cache
def _card(value: int) -> Image:
    """A digit as large as its black card allows, uint8 [128, 96]."""
    card = np.zeros((128, 96), np.uint8)
    (wide, tall), _ = cv2.getTextSize(str(value), cv2.FONT_HERSHEY_SIMPLEX, 5.0, 14)
    at = ((96 - wide) // 2, (128 + tall) // 2)
    return np.asarray(cv2.putText(card, str(value), at, cv2.FONT_HERSHEY_SIMPLEX, 5.0, 255, 14, cv2.LINE_AA), np.uint8)


def _circle(radius: float, points: int = 28) -> NDArray[np.float64]:
    """Corner points [points, 2] of a circle."""
    angle = np.arange(points) * 2 * np.pi / points
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius


def _cross(arm: float) -> NDArray[np.float64]:
    """Corner points [12, 2] of a plus sign with arms of half width `arm`."""
    a = arm
    corners = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    return np.array(corners, np.float64)


_OUTLINES: dict[str, tuple[NDArray[np.float64], ...]] = {
    "circle": (_circle(0.97),),
    "ring": (_circle(1.0), _circle(0.56)),
    "square": (np.array([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]),),
    "triangle": (np.array([(0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),),
    "cross": (_cross(0.32),),
}


def _background(seed: int, width: int, height: int) -> Floats:
    """A dull textured surface, float32 [ceil(1.16 h), ceil(1.16 w), 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = int(np.ceil(height * _OVERSIZE)), int(np.ceil(width * _OVERSIZE))
    tint = rng.uniform(50, 170) + rng.uniform(-20, 20, (2, 3))
    y, x = np.linspace(0, 1, rows, dtype=np.float32)[:, None], np.linspace(0, 1, columns, dtype=np.float32)[None]
    angle = rng.uniform(0, 2 * np.pi)
    slope = (y - 0.5) * np.cos(angle) + (x - 0.5) * np.sin(angle) + 0.5
    image = (tint[0] + (tint[1] - tint[0]) * slope[..., None]).astype(np.float32)
    kind, strength = rng.integers(4), rng.uniform(5, 20)
    if kind == 0:
        image += _grid(rng.uniform(-strength, strength, (rng.integers(4, 13),) * 2), columns, rows, cv2.INTER_CUBIC)
    elif kind == 1:
        wave = (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(20, 55)
        image += (0.7 * strength * np.sign(np.sin(wave)))[..., None].astype(np.float32)
    elif kind == 2:
        checks = rng.choice([-strength, strength], (rng.integers(4, 10),) * 2)
        image += 0.6 * _grid(checks, columns, rows, cv2.INTER_NEAREST)
    return np.asarray(image, np.float32)


def _grid(values: NDArray[np.float64], columns: int, rows: int, how: int) -> Floats:
    """A coarse grid of brightness enlarged to [rows, columns, 1]."""
    return np.asarray(cv2.resize(values.astype(np.float32), (columns, rows), interpolation=how), np.float32)[..., None]


def _crop(background: Floats, scene: Scene, time: float, width: int, height: int) -> Image:
    """The part of the background that the camera sees, uint8 [height, width, 3]."""
    room_y, room_x = background.shape[0] - height, background.shape[1] - width
    pan_x, pan_y = pan_offset(scene, time)
    left = int(np.clip(round(room_x / 2 - pan_x * width), 0, room_x))
    top = int(np.clip(round(room_y / 2 - pan_y * height), 0, room_y))
    return np.clip(background[top : top + height, left : left + width], 0, 255).astype(np.uint8)


def _degrade(frame: Image, look: Look, rng: random.Random) -> Image:
    """Brightness, blur, noise and a JPEG round trip."""
    if look.blur > 0.6:
        frame = np.asarray(
            cv2.GaussianBlur(frame, (0, 0), (0.3 + (look.blur - 0.6) * 1.4) * frame.shape[0] / 96), np.uint8
        )
    noisy = frame.astype(np.float32) * np.float32(look.brightness)
    if look.noise > 0:
        start = rng.randrange(len(_NOISE) - frame.size)
        noisy += np.float32(look.noise) * _NOISE[start : start + frame.size].reshape(frame.shape)
    frame = np.clip(noisy, 0, 255).astype(np.uint8)
    if look.jpeg >= 88:
        return frame
    _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
