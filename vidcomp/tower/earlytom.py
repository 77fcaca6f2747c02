# SPDX-License-Identifier: Apache-2.0
"""EarlyTom's merge in the tower: frames of a still stretch become fewer frames, behind three layers.

In plain words: walk the frames; a group goes on while a moving average of each frame's mean cosine (same position) with
the group's first frame stays at ``tau`` or above and the group is shorter than ``window`` frames. First and last frame
of a group stay. Between them, walk the neighbours: a pair merges when it is more alike than first and last are, and
more alike than the next pair is; its weights are those two similarities. Position by position, so that a merged frame
is a whole frame.
Where the published code has a defect the default differs, and ``official=true`` does not: it always loses the last of
the middle frames, and its last pair merges with the whole weight on one side; here that pair is averaged and a frame
that found no partner stays. A frame keeps its time: that of the first frame in it.
All frames of a video pass the tower together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import listed
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.tower.host import TowerCut, TowerStage

__all__ = ["EarlyTom", "frame_groups", "merged_middle"]

_LAYERS, _DEPTH, _MEMORY = (6, 21, 23), 26, 0.9  # published


@dataclass(frozen=True)
class EarlyTom:
    """Parameters as published: similarity limit, and one more than the largest group.

    ``at`` None takes the published relative depths, behind layers 6, 21 and 23 of 26.

    Attributes:
        tau: similarity from which frames may merge.
        window: one more than the largest group.
        at: layers behind which frames merge.
        official: with the defects of the published code.
    """

    tau: float = 0.6
    window: int = 6
    at: str | int | tuple[int, ...] | None = None
    official: bool = False

    name: ClassVar[str] = "earlytom"
    summary: ClassVar[str] = "merges frames of still stretches inside the tower, behind a few of its layers"
    source: ClassVar[Source] = Source("EarlyTom", "CVPR 2026", "2605.30010", "https://github.com/viridisGreen/EarlyTom")
    parity: ClassVar[Parity] = "own reading"
    stage: ClassVar[str] = "encoder"
    exact: ClassVar[bool] = False
    over_frames: ClassVar[bool] = True
    weighted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not -1 <= self.tau <= 1:
            raise ValueError(f"tau must be between -1 and 1, got {self.tau!r}")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be a whole number of at least 2, got {self.window!r}")
        object.__setattr__(self, "at", listed("at", self.at, int))

    def layers(self, depth: int) -> tuple[int, ...]:
        """The named layers, or the published ones moved to this depth.

        Raises:
            ValueError: the tower has no such layer in front of the last.
        """
        if self.at is None:
            return tuple(sorted({max(0, min(depth - 1, round(layer * (depth + 1) / _DEPTH))) for layer in _LAYERS}))
        assert isinstance(self.at, tuple)
        if not all(0 <= layer < depth for layer in self.at):
            raise ValueError(f"at must be layers from 0 to {depth - 1} of this tower, got {self.at}")
        return self.at

    def merge(self, stage: TowerStage) -> TowerCut | None:
        """Group, then merge the middle of every group."""
        owner: list[int] = []
        share: list[float] = []
        for start, end in frame_groups(stage.rows, self.tau, self.window):
            first = owner[-1] + 1 if owner else 0
            places, weights = merged_middle(stage.rows[start:end], self.official)
            owner += [first + place for place in places]
            share += weights
        frames, left = owner[-1] + 1, stage.rows.shape[1]
        if frames == len(owner):
            return None
        place = torch.arange(left, device=stage.rows.device)
        rows = torch.tensor(owner, device=place.device)[:, None] * left + place
        return TowerCut(rows, torch.tensor(share, device=place.device)[:, None].expand(rows.shape), frames, left)


def frame_groups(rows: Tensor, tau: float, window: int) -> list[tuple[int, int]]:
    """Groups [start, end) of frames [t, P, C] that stay like their first frame; at most ``window`` - 1 frames each."""
    groups, start, average = [], 0, 1.0
    for frame in range(1, len(rows)):
        average = (1 - _MEMORY) * average + _MEMORY * _likeness(rows[start], rows[frame])
        if average < tau or frame - start + 1 >= window:
            groups.append((start, frame))
            start, average = frame, 1.0
    return [*groups, (start, len(rows))]


def merged_middle(rows: Tensor, official: bool = False) -> tuple[list[int], list[float]]:
    """Merge within one group of frames [g, P, C].

    Returns:
        For each frame the new frame it goes to, not falling, and its weight there.
    """
    count = len(rows)
    if count <= 3:
        return list(range(count)), [1.0] * count
    limit = _likeness(rows[0], rows[-1])
    alike = [_likeness(rows[i], rows[i + 1]) for i in range(1, count - 2)]  # of neighbours between first and last
    owner, share, i, last = [0], [1.0], 0, len(alike)  # i and last count the middle frames
    while i < last:
        tail = i == last - 1
        if alike[i] > limit and (tail or alike[i] > alike[i + 1]):
            weight = (1.0 if official else 0.5) if tail else alike[i] / (alike[i] + alike[i + 1])
            owner, share, i = [*owner, owner[-1] + 1, owner[-1] + 1], [*share, weight, 1 - weight], i + 2
        else:
            owner, share, i = [*owner, owner[-1] + 1], [*share, 1.0], i + 1
    if i == last:  # the last middle frame found no partner
        owner, share = [*owner, owner[-1] + (not official)], [*share, float(not official)]
    return [*owner, owner[-1] + 1], [*share, 1.0]


def _likeness(one: Tensor, other: Tensor) -> float:
    """Mean over positions of the cosine between two frames [P, C]."""
    return torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=-1).mean().item()
