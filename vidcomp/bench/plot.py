# SPDX-License-Identifier: Apache-2.0
"""Accuracy against tokens kept, as SVG or PNG, drawn from one list of shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np

from vidcomp.errors import UsageError

__all__ = ["plot_accuracy"]

_WIDTH, _HEIGHT, _MARGIN, _LEGEND = 720, 460, 60, 120
_INK, _PALE = (60, 60, 60), (190, 190, 190)
_COLORS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207), (140, 86, 75),
           (127, 127, 127))  # fmt: skip

Point = tuple[float, float]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class _Line:
    points: tuple[Point, ...]
    color: Color
    width: int = 1


@dataclass(frozen=True)
class _Text:
    at: Point
    text: str
    color: Color = _INK


_Shape = _Line | _Text


Row = Mapping[str, Any]
"""One method at one keep ratio, as in ``bench accuracy --json``."""


def plot_accuracy(bench: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix decides the format.

    Args:
        bench: the object of ``bench accuracy --json``.
        path: file to write.

    Raises:
        UsageError: another suffix than .svg or .png.
    """
    shapes = list(_shapes(bench))
    if path.suffix.lower() == ".svg":
        path.write_text(_svg(shapes), encoding="utf-8")
    elif path.suffix.lower() == ".png":
        cv2.imwrite(str(path), _raster(shapes))
    else:
        raise UsageError(f"--plot {path}", why="the suffix must be .svg or .png", code="bad_option")


def _shapes(bench: Mapping[str, Any]) -> Iterator[_Shape]:
    tokens = [row["tokens"] for row in (*bench["rows"], bench["full"])]
    low, high = math.log(min(tokens) * 0.9), math.log(max(tokens) * 1.1)

    def at(count: float, accuracy: float) -> Point:
        x = _MARGIN + (math.log(count) - low) / (high - low) * (_WIDTH - 2 * _MARGIN - _LEGEND)
        return x, _HEIGHT - _MARGIN - accuracy * (_HEIGHT - 2 * _MARGIN)

    left, right = math.exp(low), math.exp(high)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        yield _Line((at(left, tick), at(right, tick)), _PALE)
        yield _Text((10, at(left, tick)[1] + 4), f"{tick:.2f}")
    for count in sorted({round(value) for value in tokens}):
        yield _Text((at(count, 0)[0] - 8, _HEIGHT - _MARGIN + 20), str(count))
    yield _Text((_WIDTH / 2 - 110, _HEIGHT - 12), "visual tokens kept (log scale)")
    yield _Text((_MARGIN, 24), f"macro accuracy, {bench['full']['n']} questions, 95 % intervals over videos")
    for value, name in ((bench["full"]["accuracy"], "all tokens"), (bench["blind"]["accuracy"], "blind")):
        yield _Line((at(left, value), at(right, value)), _INK)
        yield _Text((at(right, value)[0] + 6, at(right, value)[1] + 4), name)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in bench["rows"])):
        rows = sorted((row for row in bench["rows"] if row["method"] == method), key=lambda row: float(row["tokens"]))
        yield from _curve(rows, _COLORS[number % len(_COLORS)], number, at)


def _curve(rows: Sequence[Row], color: Color, number: int, place: Callable[[float, float], Point]) -> Iterator[_Shape]:
    yield _Line(tuple(place(row["tokens"], row["accuracy"]) for row in rows), color, 2)
    for row in rows:
        yield _Line((place(row["tokens"], row["ci_low"]), place(row["tokens"], row["ci_high"])), color)
    yield _Text((_WIDTH - _LEGEND - _MARGIN + 6, 90 + 18 * number), rows[0]["method"], color)


def _svg(shapes: list[_Shape]) -> str:
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">']
    lines.append('<rect width="100%" height="100%" fill="white"/>')
    for shape in shapes:
        paint = f"rgb{shape.color}"
        if isinstance(shape, _Line):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            lines.append(f'<polyline points="{points}" fill="none" stroke="{paint}" stroke-width="{shape.width}"/>')
        else:
            x, y = shape.at
            lines.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" fill="{paint}">{escape(shape.text)}</text>')
    return "\n".join([*lines, "</svg>\n"])


def _raster(shapes: list[_Shape]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """BGR [h, w, 3], as OpenCV writes it."""
    image = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    for shape in shapes:
        color = shape.color[::-1]
        if isinstance(shape, _Line):
            points = np.array(shape.points).round().astype(np.int32)
            cv2.polylines(image, [points], False, color, shape.width, cv2.LINE_AA)
        else:
            x, y = (round(value) for value in shape.at)
            cv2.putText(image, shape.text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
    return image
