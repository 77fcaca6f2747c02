# SPDX-License-Identifier: Apache-2.0
"""Cuts, for ``--sample scene``: where the picture changes at once, found on thumbnails with numpy alone.

A cut is a step at which the brightness of a 16 x 16 thumbnail changes by more than ``CUT_LEVEL`` grey levels on average
and by more than ``CUT_RATIO`` times what it changes around that step, so that fast motion is no cut.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["THUMB_SIDE", "cuts_among", "find_cuts", "thumbnail"]

THUMB_SIDE = 64  # pixels of the longer side that the decoder is asked for
CELLS = 16
CUT_LEVEL = 12.0
CUT_RATIO = 3.0
AROUND = 8  # steps on either side


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Brightness ``[16, 16]`` of an RGB picture ``[h, w, 3]``."""
    rows = np.linspace(0, image.shape[0], CELLS + 1).astype(int)[:-1]
    columns = np.linspace(0, image.shape[1], CELLS + 1).astype(int)[:-1]
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # [h, w]
    counts = np.diff([*rows, image.shape[0]]).clip(1)[:, None] * np.diff([*columns, image.shape[1]]).clip(1)[None]
    sums = np.add.reduceat(np.add.reduceat(grey, rows, 0), columns, 1)
    return np.asarray(sums / counts, np.float32)


def find_cuts(thumbnails: Iterable[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Bounds ``[S + 1]`` of the S spans between cuts: 0, the first frame after each cut, the number of frames."""
    stack = np.stack(list(thumbnails))  # [N, 16, 16]
    if len(stack) < 2:
        return np.array([0, len(stack)], dtype=np.int64)
    cuts = cuts_among(np.abs(np.diff(stack, axis=0)).mean((1, 2)))
    return np.concatenate([[0], cuts, [len(stack)]]).astype(np.int64)


def cuts_among(change: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of the first frame after each cut, from the mean change of each step ``[N - 1]``."""
    if not len(change):
        return np.empty(0, dtype=np.int64)
    padded = np.pad(change, AROUND, mode="reflect") if len(change) > AROUND else np.pad(change, AROUND)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1)  # [N - 1, 17]
    usual = np.median(windows, axis=1)
    return np.flatnonzero((change > CUT_LEVEL) & (change > CUT_RATIO * usual)) + 1
