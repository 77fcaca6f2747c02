# SPDX-License-Identifier: Apache-2.0
"""Repetition of the picture: frame comparison before the vision tower, and spans of repeated tokens after it."""

from vidcomp.spans.duplicates import FramePlan, every_frame, find_duplicates
from vidcomp.spans.encoders import FrameEncoder, frame_encoder

__all__ = ["FrameEncoder", "FramePlan", "every_frame", "find_duplicates", "frame_encoder"]
