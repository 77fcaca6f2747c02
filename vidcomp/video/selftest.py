# SPDX-License-Identifier: Apache-2.0
"""Test of a reader on this machine: it decodes a small clip of known pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidcomp.errors import VidcompError
from vidcomp.video.read import read_frames
from vidcomp.video.sampling import Sampling

__all__ = ["reader_fault"]

SAMPLE = Path(__file__).with_name("sample.mp4")  # H.264 with B-frames, 1 s at 10 frames per second, 96 x 64
LEVELS = np.arange(30, 230, 20)  # grey of each picture
TOLERANCE = 4  # grey levels: a picture is 20 away from the next


def reader_fault(reader: str) -> str:
    """Fault of a reader of ``READERS`` with a sound clip, on one line; empty when nothing."""
    try:
        frames = read_frames(SAMPLE, Sampling(frames=len(LEVELS)), readers=[reader])
    except VidcompError as error:
        return error.why or error.what
    if damage := frames.wait().degraded:
        return damage
    found = frames.pixels.mean((1, 2, 3))  # [T]
    if found.shape != LEVELS.shape or np.abs(found - LEVELS).max() > TOLERANCE:
        return f"it gives pictures of the brightness {found.round().tolist()} instead of {LEVELS.tolist()}"
    return ""
