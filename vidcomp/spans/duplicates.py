# SPDX-License-Identifier: Apache-2.0
"""Frames that show the same picture again, and therefore need not be encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.core.tokens import Span
from vidcomp.spans.encoders import FrameEncoder

__all__ = ["FramePlan", "every_frame", "find_duplicates", "with_copies"]


@dataclass(frozen=True)
class FramePlan:
    """The frames that are encoded, and which encoded frame stands for each frame.

    Attributes:
        encode: [E] int64, ascending indices of the frames to encode; the first is 0.
        source: [T] int64, 0..E-1, not falling: the encoded frame that stands for each frame.
    """

    encode: Tensor
    source: Tensor

    @property
    def spans(self) -> tuple[Span, ...]:
        """One span per encoded frame: itself and the frames it stands for."""
        ends = [*self.encode[1:].tolist(), self.source.numel()]
        return tuple(Span(start, end - 1) for start, end in zip(self.encode.tolist(), ends, strict=True))


def every_frame(frames: int) -> FramePlan:
    """The plan that encodes all frames."""
    return FramePlan(torch.arange(frames), torch.arange(frames))


def find_duplicates(regions: Tensor, encoder: FrameEncoder, same_frame: float | None = None) -> FramePlan:
    """Skip a frame that looks like the last encoded one.

    Compared with the last *encoded* frame, not with its neighbour: a slow drift adds up and is seen.

    Args:
        regions: [T, R, F] from the encoder.
        encoder: says how alike two frames are.
        same_frame: similarity from which a frame is skipped; the encoder's own value when None.
    """
    limit = encoder.same_frame if same_frame is None else same_frame
    kept, source = [0], [0]
    for frame in range(1, len(regions)):
        if encoder.similarity(regions[frame], regions[kept[-1]]) < limit:
            kept.append(frame)
        source.append(len(kept) - 1)
    return FramePlan(torch.tensor(kept), torch.tensor(source))


def with_copies(left: FramePlan, repeats: FramePlan) -> tuple[FramePlan, Tensor]:
    """Give every repeat the rows of the frame that it repeats, so that it counts like any other frame.

    Args:
        left: the frames that left the vision tower, as indices of all T frames; fewer than entered it where frames
            merged inside.
        repeats: the frames that entered it, and which of them each frame shows.

    Returns:
        The frames that have rows now, and [E] which frame of ``left`` has those rows. Without merging in the tower
        these are all T frames.
    """
    shown = repeats.encode[repeats.source]  # [T], the frame that each one shows
    has_rows = torch.isin(shown, left.encode)
    encode = has_rows.nonzero()[:, 0]
    return FramePlan(encode, has_rows.long().cumsum(0) - 1), torch.searchsorted(left.encode, shown[encode])
