# SPDX-License-Identifier: Apache-2.0
"""Repetition of the picture, seen before the vision tower: frames that repeat, and spans of frames that look alike."""

from vidcomp.spans.boundaries import Segments, find_segments
from vidcomp.spans.duplicates import FramePlan, every_frame, find_duplicates, with_copies
from vidcomp.spans.encoders import FrameEncoder, frame_encoder

__all__ = [
    "FrameEncoder",
    "FramePlan",
    "Segments",
    "every_frame",
    "find_duplicates",
    "find_segments",
    "frame_encoder",
    "with_copies",
]
