# SPDX-License-Identifier: Apache-2.0
"""Fallbacks where memory runs out: the same again with smaller chunks in the tower, then with fewer frames."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.errors import OutOfMemory

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM
    from vidcomp.families import Family
    from vidcomp.result import Answer
    from vidcomp.video import Frames

__all__ = ["fitted", "read"]

SMALLER_CHUNKS = 4  # by which the frames that the tower takes at once are divided where memory runs out
FEWER_FRAMES = (2, 4, 8)  # by which the number of frames is divided after that


def read(lm: VideoLM, path: Path, within: Mapping[str, Any] | None = None) -> Frames:
    """Frames of a file, or of a window of it, chosen as the model's settings say."""
    from vidcomp.video.given import read_video
    from vidcomp.video.options import sampling_of

    config = lm.config.replace(**within).video if within else lm.config.video
    return read_video(path, config, sampling_of(config, lm.family.default_frames, lm.family.stock_rule))


def fitted(lm: VideoLM, path: Path, question: str, video: Any, within: Mapping[str, Any] | None = None) -> Answer:
    """Answer; where memory runs out, again with smaller chunks in the tower, then with fewer frames as well.

    Args:
        lm: the model.
        path: the file.
        question: plain text.
        video: its frames, or the file itself.
        within: settings of a window.

    Raises:
        OutOfMemory: with an eighth of the frames, too.
    """
    within = within or {}
    try:
        return lm.ask(video, question, **({} if video is not path else within))
    except OutOfMemory as error:
        last = error.with_traceback(None)  # which holds what the attempt had allocated
    with _smaller_chunks(lm.family):
        frames = len(read(lm, path, within))
        for parts in (1, *FEWER_FRAMES):
            _free()
            fewer = max(1, frames // parts)
            try:
                answer = lm.ask(path, question, **within, **({} if parts == 1 else _at_most(lm, fewer)))
            except OutOfMemory as error:
                last = error.with_traceback(None)
                continue
            how = "fewer at a time" if parts == 1 else f"{fewer} of them were read"
            answer.ledger.notes.append(f"memory ran out with {frames} frames: {how}")
            return answer
    raise last


def _at_most(lm: VideoLM, frames: int) -> dict[str, Any]:
    """The setting that reads so many frames, whatever the sampling goes by."""
    by_rate = lm.config.video.fps is not None or lm.config.video.sample == "fps"
    return {"max_frames" if by_rate else "frames": frames}


@contextmanager
def _smaller_chunks(family: Family) -> Iterator[None]:
    names = ("chunk", "chunk_patches")
    try:
        for name in names:
            setattr(family, name, max(1, getattr(family, name) // SMALLER_CHUNKS))
        yield
    finally:
        for name in names:
            vars(family).pop(name, None)  # a merger in the tower sets and removes them as well


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
