# SPDX-License-Identifier: Apache-2.0
"""Turbo: ToMe in the tower, where rows with much semantic value are slower to merge.

Paper: "Turbo: Informativity-Driven Acceleration Plug-In for Vision-Language Large Models".
In plain words: from the cosine of a pair, take ``alpha * 30 * beta ** |gamma - layer|`` times the attention that the
class token pays to the even row; then as ToMe. Below 40 rows nothing merges.
Our reading for towers without a class token: the attention of the mean query, mean over heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.source import Source
from vidcomp.methods.blocks.bipartite import pair_up
from vidcomp.tower.host import TowerCut, TowerStage
from vidcomp.tower.tome import TomeTower, cut_of

__all__ = ["TurboTower"]

_SCALE, _FEWEST = 30.0, 40  # published


@dataclass(frozen=True)
class TurboTower(TomeTower):
    """Merge ``r`` rows of every frame behind each layer; parameters as published.

    Attributes:
        alpha: weight of the semantic value.
        beta: fall of that weight from layer to layer.
        gamma: layer at which it is highest.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: int = 0

    name: ClassVar[str] = "turbo"
    summary: ClassVar[str] = "merges pairs of a frame's rows behind every layer, those of semantic value last"
    source: ClassVar[Source] = Source(
        "Turbo",
        "ECCV 2024",
        "2407.11717",
        "https://github.com/anakin-skywalker-Joseph/Folder",
        licence="no licence file: read, not copied",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0 or not 0 < self.beta <= 1:
            raise ValueError(f"alpha must be at least 0 and beta in (0, 1], got {self.alpha} and {self.beta}")

    def merge(self, stage: TowerStage) -> TowerCut | None:
        """The best pairs by keys, less the value of the even row."""
        if stage.rows.shape[1] < _FEWEST:
            return None
        count = min(self.r, stage.rows.shape[1] // 2)
        factor = self.alpha * _SCALE * self.beta ** abs(self.gamma - stage.layer)
        penalty = factor * stage.summary_attention[:, ::2]
        return cut_of(pair_up(stage.mean_keys, count, sizes=stage.sizes, penalty=penalty))
