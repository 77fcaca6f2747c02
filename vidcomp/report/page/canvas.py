# SPDX-License-Identifier: Apache-2.0
"""Two surfaces with one set of strokes: a drawing is written once and comes out as SVG or as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Box", "Canvas", "PngCanvas", "SvgCanvas", "data_uri", "jpeg"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Pixels = NDArray[np.uint8]

_BACK, _INK = "#ffffff", "#1b1f24"
_SHARP = 2  # pixels of an embedded picture per pixel of its box


class Canvas(Protocol):
    """A surface of a given size in pixels."""

    def text(self, x: float, y: float, text: str, size: int = 14, *, bold: bool = False) -> None:
        """One line; ``y`` is its base line."""

    def image(self, box: Box, pixels: Pixels) -> None:
        """A picture [h, w, 3], stretched to the box."""

    def boxes(self, name: str, boxes: Sequence[Box], fill: str, opacity: float, stroke: str = "") -> None:
        """Rectangles of one kind."""

    def encoded(self) -> bytes:
        """The file."""


class SvgCanvas:
    """Writes elements; pictures are embedded as JPEG."""

    def __init__(self, width: int, height: int) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="system-ui, sans-serif" fill="{_INK}">',
            f'<rect width="{width}" height="{height}" fill="{_BACK}"/>',
        ]

    def text(self, x: float, y: float, text: str, size: int = 14, *, bold: bool = False) -> None:
        """As in :class:`Canvas`."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight}>{escape(_plain(text))}</text>')

    def image(self, box: Box, pixels: Pixels) -> None:
        """As in :class:`Canvas`."""
        left, top, right, bottom = box
        uri = data_uri(jpeg(pixels, int(_SHARP * max(right - left, bottom - top))))
        self.parts.append(
            f'<image x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" '
            f'preserveAspectRatio="none" href="{uri}"/>'
        )

    def boxes(self, name: str, boxes: Sequence[Box], fill: str, opacity: float, stroke: str = "") -> None:
        """As in :class:`Canvas`; one path."""
        if boxes:
            path = "".join(f"M{x0:.2f} {y0:.2f}H{x1:.2f}V{y1:.2f}H{x0:.2f}Z" for x0, y0, x1, y1 in boxes)
            edge = f' stroke="{stroke}" stroke-width="1.5"' if stroke else ""
            self.parts.append(f'<path class="{name}" fill="{fill}" fill-opacity="{opacity:g}"{edge} d="{path}"/>')

    def encoded(self) -> bytes:
        """As in :class:`Canvas`."""
        return "\n".join([*self.parts, "</svg>\n"]).encode()


class PngCanvas:
    """Paints pixels. Its font has Latin letters only."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height), _BACK)

    def text(self, x: float, y: float, text: str, size: int = 14, *, bold: bool = False) -> None:
        """As in :class:`Canvas`."""
        font: Any = ImageFont.load_default(size)
        pen = ImageDraw.Draw(self.picture)
        pen.text((x, y), _plain(text), _INK, font, anchor="ls", stroke_width=0.4 if bold else 0, stroke_fill=_INK)

    def image(self, box: Box, pixels: Pixels) -> None:
        """As in :class:`Canvas`."""
        left, top, right, bottom = (round(side) for side in box)
        self.picture.paste(Image.fromarray(pixels).resize((right - left, bottom - top)), (left, top))

    def boxes(self, name: str, boxes: Sequence[Box], fill: str, opacity: float, stroke: str = "") -> None:
        """As in :class:`Canvas`."""
        veil = Image.new("RGBA", self.picture.size)
        pen = ImageDraw.Draw(veil)
        for left, top, right, bottom in boxes:
            corner = (round(left), round(top), max(round(left), round(right) - 1), max(round(top), round(bottom) - 1))
            pen.rectangle(corner, fill + f"{round(255 * opacity):02x}", stroke or None, width=2 if stroke else 0)
        self.picture.paste(veil, mask=veil)

    def encoded(self) -> bytes:
        """As in :class:`Canvas`."""
        file = io.BytesIO()
        self.picture.save(file, "PNG", optimize=True)
        return file.getvalue()


def jpeg(pixels: Pixels, side: int, quality: int = 80) -> bytes:
    """A picture [h, w, 3] as JPEG, its longer side at most ``side`` pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((max(1, side), max(1, side)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def data_uri(content: bytes) -> str:
    """JPEG bytes as the address of an embedded picture."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _plain(text: str) -> str:
    """One line without control characters, which XML does not allow."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
