# SPDX-License-Identifier: Apache-2.0
"""The embedded model: a tiny video-LLM trained from scratch on a procedural world, and the recipe that made it.

Importing this package is cheap: it imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the shipped checkpoint, laid out like a Hugging Face repository."""

FRAME_ENCODER = Path(__file__).parent / "frame_encoder"
"""Folder of the small Dinov2-architecture frame encoder, laid out like a Hugging Face repository."""

__all__ = ["CHECKPOINT", "FRAME_ENCODER"]
