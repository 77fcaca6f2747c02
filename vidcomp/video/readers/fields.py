# SPDX-License-Identifier: Apache-2.0
"""Interlaced pictures: two fields, taken one after the other, woven line by line.

Only a picture itself is looked at, never its neighbours, so the picture at an index stays that picture. Where its lines
are combed, that is where a line resembles those two away and not those beside it, the lines of the field that was
taken first are kept and those between are made from them. All else stays as it is, and so does a whole picture in
which nothing is combed: many files call all their pictures interlaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["combed", "one_field", "woven"]

Picture = NDArray[np.uint8]
STEP = 12  # grey levels between two lines, at least, that count
LINES = 6  # combed ones below each other, at least: noise makes fewer
LEAST_SHARE = 1e-4  # of the pixels of a picture: fewer are noise
REACH = (9, 15)  # rows and columns about a combed place that are made anew with it


def one_field(frame: Any, last: bool) -> Any:
    """Every second line of a PyAV frame, with the colours that belong to them, as a frame of half the height.

    Args:
        last: the second, fourth ... line, instead of the first, third ...
    """
    import av

    rows = (frame.height - last + 1) // 2
    field: Any = av.VideoFrame(frame.width, rows, frame.format.name)
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    for own, other in zip(field.planes, frame.planes, strict=True):
        lines = np.frombuffer(other, np.uint8).reshape(-1, other.line_size)[int(last) :: 2]
        kept = np.frombuffer(own, np.uint8).reshape(-1, own.line_size)
        width, height = min(own.line_size, other.line_size), min(len(kept), len(lines))
        kept[:height, :width] = lines[:height, :width]
    return field


def combed(picture: Picture) -> NDArray[np.bool_] | None:
    """Mark where ``[h, w, 3]`` is combed, as bool ``[h, w]``; None when it is nowhere."""
    import cv2

    grey = picture[..., 1].astype(np.int16)
    if len(grey) < 8:
        return None
    above, line, below = grey[1:-3] - grey[2:-2], grey[2:-2], grey[3:-1] - grey[2:-2]
    same = (above > 0) == (below > 0)
    unlike = np.minimum(np.abs(above), np.abs(below))
    like = np.maximum(np.abs(grey[:-4] - line), np.abs(grey[4:] - line))
    marks = np.pad(same & (unlike > STEP) & (like * 2 < unlike), ((2, 2), (0, 0))).astype(np.uint8)
    marks = np.asarray(cv2.morphologyEx(marks, cv2.MORPH_OPEN, np.ones((LINES, 1), np.uint8)))
    if marks.sum() < max(LINES, LEAST_SHARE * grey.size):
        return None
    return np.asarray(cv2.dilate(marks, np.ones(REACH, np.uint8)), dtype=np.bool_)


def woven(picture: Picture, field: Picture, places: NDArray[np.bool_], last: bool) -> Picture:
    """``picture`` with what is made from one field alone in some places.

    Args:
        picture: ``[h, w, 3]``.
        field: ``[rows, w, 3]``, every second line of it (:func:`one_field`).
        places: ``[h, w]``.
    """
    made = np.empty_like(picture)
    made[int(last) :: 2] = field
    between = made[int(not last) :: 2]
    before = field if not last else np.concatenate([field[:1], field])
    after = np.concatenate([before[1:], before[-1:]])
    mean = (before.astype(np.uint16) + after + 1) // 2
    between[:] = mean[: len(between)]
    return np.where(places[..., None], made, picture)
