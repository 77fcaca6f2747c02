# SPDX-License-Identifier: Apache-2.0
"""ToMe in the tower: the most similar pairs of a frame's rows merge behind every layer.

Paper: "Token Merging: Your ViT But Faster".
In plain words: rows at even places choose the most similar row at an odd place (cosine of the layer's keys, mean over
heads); the ``r`` best pairs merge, at most half of the rows. A row is the mean of its patches, and attention counts it
as often as there are patches in it (``weighted``).
Differences: the published code merges between attention and MLP, which hooks on stock layers cannot; here rows merge
behind the layer. Rows keep their order, and are spread over their patches again before the last used layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.source import Source
from vidcomp.methods.base import Parity
from vidcomp.methods.blocks.bipartite import Merging, pair_up
from vidcomp.tower.host import TowerCut, TowerStage

__all__ = ["TomeTower", "cut_of"]


@dataclass(frozen=True)
class TomeTower:
    """Merge ``r`` rows of every frame behind each layer.

    Attributes:
        r: pairs that merge behind each layer.
        weighted: attention counts a merged row as often as it has members.
    """

    r: int = 16
    weighted: bool = True

    name: ClassVar[str] = "tome"
    summary: ClassVar[str] = "merges the r most similar pairs of a frame's rows behind every layer of the tower"
    source: ClassVar[Source] = Source(
        "ToMe",
        "ICLR 2023",
        "2210.09461",
        "https://github.com/facebookresearch/ToMe",
        licence="CC-BY-NC: read, not copied",
    )
    parity: ClassVar[Parity] = "own reading"
    stage: ClassVar[str] = "encoder"
    exact: ClassVar[bool] = True
    over_frames: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"r must be a whole number of at least 1, got {self.r!r}")

    def layers(self, depth: int) -> tuple[int, ...]:
        """Behind all of them."""
        return tuple(range(depth))

    def merge(self, stage: TowerStage) -> TowerCut | None:
        """The best pairs by keys."""
        count = min(self.r, stage.rows.shape[1] // 2)
        return cut_of(pair_up(stage.mean_keys, count, sizes=stage.sizes)) if count else None


def cut_of(merging: Merging) -> TowerCut:
    """A step within frames as a decision about all rows."""
    frames, left = merging.anchor.shape
    first = torch.arange(frames, device=merging.owner.device)[:, None] * left
    return TowerCut(merging.owner + first, merging.share, frames, left)
