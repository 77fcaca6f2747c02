# SPDX-License-Identifier: Apache-2.0
"""From the settings of a run to a :class:`Sampling`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vidcomp.config import VideoConfig
from vidcomp.core.stock_rules import StockRule
from vidcomp.video.sampling import DEFAULT_FPS, Sampling

__all__ = ["readers_of", "sampling_of"]


def readers_of(video: VideoConfig) -> list[str] | None:
    """The readers to try, as :func:`~vidcomp.video.read_frames` takes them."""
    return None if video.reader == "auto" else [video.reader]


def sampling_of(video: VideoConfig, default_frames: int, stock: StockRule) -> Sampling:
    """Make the sampling of these options.

    Args:
        video: the settings.
        default_frames: how many frames when no number is given.
        stock: the model's own rule, for ``--sample model``; ``--frames`` replaces its number.
    """
    start, end = video.window
    given: dict[str, Any] = dict(start=start, end=end, seek=video.seek)
    if video.fps is not None or video.sample == "fps":
        return Sampling(frames=None, fps=video.fps or DEFAULT_FPS, max_frames=video.max_frames, **given)
    rule = video.sample or "uniform"
    frames = video.frames or default_frames
    if rule == "model":
        stock = replace(stock, frames=video.frames, fps=None) if video.frames else stock
        return Sampling(frames, max_frames=video.max_frames, rule=rule, stock=stock, **given)
    return Sampling(frames, rule=rule, **given)
