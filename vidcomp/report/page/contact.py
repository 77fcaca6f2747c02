# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: every sampled frame with its time, and its patches by what became of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidcomp.core.trace import Fate, TokenTrace
from vidcomp.errors import InputError, UsageError
from vidcomp.report.page.canvas import Box, Canvas, PngCanvas, SvgCanvas
from vidcomp.video.files import display_name

if TYPE_CHECKING:
    from vidcomp.result import Answer

__all__ = [
    "FATES",
    "MOST_FRAMES",
    "cell_boxes",
    "require_picture",
    "shown_frames",
    "slice_of_frame",
    "write_bytes",
    "write_picture",
]

MOST_FRAMES = 64  # more would not be legible
FATES = {
    Fate.KEPT: ("kept", "#ffffff", 0.0, "#ffb000"),
    Fate.LEFT: ("left inside the model", "#b3261e", 0.45, ""),
    Fate.MERGED: ("merged into another patch", "#0b3d91", 0.55, ""),
    Fate.DROPPED: ("dropped", "#000000", 0.8, ""),
}
"""Fate to its words, fill, opacity and stroke."""
_CANVASES: dict[str, type[SvgCanvas] | type[PngCanvas]] = {".svg": SvgCanvas, ".png": PngCanvas}
_WIDTH, _MARGIN, _CAPTION, _HEAD = 1280, 16, 24, 112
_LETTER = 8.0  # pixels, of a line's mean letter


def write_picture(answer: Answer, trace: TokenTrace, file: Path) -> None:
    """Draw the contact sheet of an answer into an SVG or PNG file, which appears when it is whole.

    Raises:
        UsageError: neither .svg nor .png. InputError: the file cannot be written (``unwritable``).
    """
    require_picture(file)
    write_bytes(file, _drawn(answer, trace, _CANVASES[file.suffix.lower()]))


def require_picture(file: Path) -> None:
    """Raise UsageError unless the name ends in .svg or .png."""
    if file.suffix.lower() not in _CANVASES:
        raise UsageError(
            f"--picture {display_name(file)}", why="a picture is .svg or .png",
            hint=f"--picture {display_name(file.with_suffix('.svg'))}", code="bad_option",
        )  # fmt: skip


def _drawn(answer: Answer, trace: TokenTrace, surface: type[SvgCanvas] | type[PngCanvas]) -> bytes:
    frames, (height, width) = shown_frames(len(trace.times)), answer.frames.pixels.shape[1:3]
    columns = _columns(len(frames), width / height)
    tile = (_WIDTH - _MARGIN) / columns - _MARGIN
    step = tile * height / width + _CAPTION + _MARGIN
    canvas = surface(_WIDTH, math.ceil(_HEAD + step * math.ceil(len(frames) / columns)))
    _head(canvas, answer, trace, len(frames))
    for place, frame in enumerate(frames):
        left = _MARGIN + place % columns * (tile + _MARGIN)
        top = _HEAD + place // columns * step
        box = (left, top, left + tile, top + tile * height / width)
        canvas.image(box, answer.frames.pixels[frame])
        _patches(canvas, trace, slice_of_frame(trace, frame), box)
        canvas.text(left, box[3] + 17, _caption(trace, frame), 13)
    return canvas.encoded()


def shown_frames(count: int) -> Sequence[int]:
    """All frames, or :data:`MOST_FRAMES` spread evenly."""
    return range(count) if count <= MOST_FRAMES else np.linspace(0, count - 1, MOST_FRAMES).round().astype(int).tolist()


def slice_of_frame(trace: TokenTrace, frame: int) -> int:
    """The slice that a sampled frame is part of."""
    return next(index for index, (first, last) in enumerate(trace.members) if first <= frame <= last)


def cell_boxes(trace: TokenTrace, index: int, fate: Fate, box: Box) -> Iterator[Box]:
    """Places, in the box of a frame, of the patches of a slice that met this fate."""
    (rows, columns), (left, top, right, bottom) = trace.grid, box
    x0, y0 = left + trace.area[0] * (right - left), top + trace.area[1] * (bottom - top)
    wide = (trace.area[2] - trace.area[0]) * (right - left) / columns
    high = (trace.area[3] - trace.area[1]) * (bottom - top) / rows
    for cell in np.flatnonzero(trace.fates[index] == fate).tolist():
        row, column = divmod(cell, columns)
        yield x0 + column * wide, y0 + row * high, x0 + (column + 1) * wide, y0 + (row + 1) * high


def _patches(canvas: Canvas, trace: TokenTrace, index: int, box: Box) -> None:
    for fate in reversed(Fate):  # the outlines of the kept ones last
        _, fill, opacity, stroke = FATES[fate]
        canvas.boxes(fate.name.lower(), list(cell_boxes(trace, index, fate, box)), fill, opacity, stroke)


def _head(canvas: Canvas, answer: Answer, trace: TokenTrace, shown: int) -> None:
    tokens, counts = answer.ledger.tokens, trace.counts()
    whole = f"{shown} of {len(trace.times)} frames, " if shown < len(trace.times) else f"{shown} frames, "
    inside = f", {tokens.after_llm_layer} from layer {tokens.layer} on" if tokens.layer is not None else ""
    canvas.text(_MARGIN, 30, _cut(f"{answer.question}  ->  {answer.text}", 19), 19, bold=True)
    line = (
        f"{answer.model}, {answer.method}: {whole}{tokens.uncompressed} patches, {tokens.kept} enter the model{inside}"
    )
    canvas.text(_MARGIN, 56, _cut(line, 14), 14)
    x = float(_MARGIN)
    for fate, (words, fill, opacity, stroke) in FATES.items():
        if counts[fate.name.lower()]:
            canvas.boxes("key", [(x, 74, x + 18, 92)], fill, opacity, stroke or "#808080")
            label = f"{words}: {counts[fate.name.lower()]}"
            canvas.text(x + 26, 88, label, 14)
            x += 50 + 7 * len(label)


def _caption(trace: TokenTrace, frame: int) -> str:
    index = slice_of_frame(trace, frame)
    kept = int((trace.fates[index] <= Fate.LEFT).sum())
    again = "" if index in trace.encoded else ", repeats"
    return f"{trace.times[frame]:.2f} s   {kept} of {trace.tokens}{again}"


def _cut(line: str, size: int) -> str:
    most = int((_WIDTH - 2 * _MARGIN) / (_LETTER * size / 15))
    return line if len(line) <= most else line[: most - 1] + "…"


def _columns(count: int, aspect: float) -> int:
    return max(1, min(count, 8, math.ceil(math.sqrt(count * 1.6 / aspect))))


def write_bytes(file: Path, content: bytes) -> None:
    """Write a whole file or none.

    Raises:
        InputError: it cannot be written (``unwritable``).
    """
    partial = file.with_name(f".{file.name[:200]}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {display_name(file)}", why=error.strerror or str(error), hint="another name",
            code="unwritable",
        ) from error  # fmt: skip
