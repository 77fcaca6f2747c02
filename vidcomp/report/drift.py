# SPDX-License-Identifier: Apache-2.0
"""Drift of tokens from a tower with shared rows against the plain tower: some slices, encoded both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vidcomp.tower.repeats import WHOLE_EVERY

if TYPE_CHECKING:
    from vidcomp.engine.videos import EncodedVideo
    from vidcomp.families import Family

__all__ = ["TowerDrift", "tower_drift"]


@dataclass(frozen=True)
class TowerDrift:
    """Cosine between the tokens of both towers.

    Attributes:
        slices: those that were encoded again; the last before each regular whole one, where rows are oldest.
        mean, worst: over all their tokens.
    """

    slices: tuple[int, ...]
    mean: float
    worst: float

    @property
    def words(self) -> str:
        """One line of a report."""
        count = f"slice {self.slices[0]}" if len(self.slices) == 1 else f"{len(self.slices)} slices"
        return f"tokens against those of the plain tower: cosine {self.mean:.4f}, worst {self.worst:.4f} ({count})"


@torch.no_grad()
def tower_drift(family: Family, encoded: EncodedVideo) -> TowerDrift:
    """Encode one slice in :data:`~vidcomp.tower.repeats.WHOLE_EVERY`, at least one, with the plain tower too."""
    count = len(encoded.plan.encode)
    oldest = list(range(WHOLE_EVERY - 1, count, WHOLE_EVERY)) or [count - 1]
    slices = encoded.plan.encode[oldest]
    plain = family.encode(encoded.layout.gather(encoded.frames.pixels, slices.numpy()), layout=encoded.layout)
    ours = encoded.view.features[oldest]
    cosine = torch.cosine_similarity(plain.features.float(), ours.float(), dim=-1)
    return TowerDrift(tuple(slices.tolist()), float(cosine.mean()), float(cosine.min()))
