# SPDX-License-Identifier: Apache-2.0
"""Time of the vision tower against the share of its rows that are computed, beside the stock tower in one process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.bench.paired import MedianInterval, paired_ratio
from vidcomp.bench.timing import Timing
from vidcomp.core.arguments import expect
from vidcomp.families import Family
from vidcomp.tower.shared import SharedRows

__all__ = ["TowerTiming", "bench_tower"]


@dataclass(frozen=True)
class TowerTiming:
    """One share of repeated patches.

    Attributes:
        repeated: share of the patches of every slice but the first that look as before.
        rows: share of the rows that were computed, over all layers.
        stock, shared: seconds of the two towers; of the processor where they run on one, so that other programs do not
            count.
        ratio: how many times faster rows are shared.
    """

    repeated: float
    rows: float
    stock: Timing
    shared: Timing
    ratio: MedianInterval | None

    @property
    def of_ideal(self) -> float:
        """The ratio as a share of 1 / rows."""
        return self.ratio.value * self.rows if self.ratio else 0.0

    def to_dict(self) -> dict[str, object]:
        """As in ``bench tower --json``."""
        return {
            "repeated": self.repeated, "rows": round(self.rows, 6), "stock": self.stock.to_dict(),
            "shared": self.shared.to_dict(), "ratio": self.ratio and self.ratio.value,
            "ratio_interval": self.ratio and self.ratio.bounds, "of_ideal": round(self.of_ideal, 4),
        }  # fmt: skip


class _Rectangles:
    """Hands out masks in which one rectangle of every slice but the first is new."""

    def __init__(self, new: float, seed: float) -> None:
        self.new, self.draw, self.begun = new, random.Random(seed), False

    def own(self, patches: Tensor) -> Tensor:
        """[t, H, W] bool, as :meth:`~vidcomp.tower.repeats.RepeatedPatches.own`."""
        slices, high, wide = patches.shape[:3]
        own = torch.zeros(slices, high, wide, dtype=torch.bool)
        for one in own:
            height, width = (min(side, round(side * self.new**0.5)) for side in (high, wide))
            top, left = self.draw.randint(0, high - height), self.draw.randint(0, wide - width)
            one[top : top + height, left : left + width] = True
        if not self.begun:
            own[0], self.begun = True, True
        return own


@torch.no_grad()
def bench_tower(
    family: Family, shares: Sequence[float], *, frames: int = 8, repeats: int = 9, seed: int = 0
) -> list[TowerTiming]:
    """Time :meth:`~vidcomp.families.Family.encode` with and without shared rows, in pairs whose order is drawn.

    Args:
        family: the model.
        shares: of patches that repeat.
        frames: of the clip, noise in the sizes of the model.
        repeats: measured pairs, after one that does not count.
        seed: of the clip and the order.

    Raises:
        UsageError: this tower cannot share rows.
    """
    expect("family", family, family.sharing_tower is not None, "a family whose tower can share rows")
    clip = torch.randint(0, 256, (frames, 384, 384, 3), generator=torch.Generator().manual_seed(seed))
    draw = random.Random(seed)
    return [_timed(family, clip.to(torch.uint8).numpy(), share, repeats, draw) for share in shares]


def _timed(family: Family, clip: NDArray[np.uint8], repeated: float, repeats: int, draw: random.Random) -> TowerTiming:
    layout, tower, seed = family.layout_of(clip), family.sharing_tower, draw.random()
    assert tower is not None

    def encode(share: bool) -> tuple[float, list[int]]:
        rows = SharedRows(tower, _Rectangles(1 - repeated, seed)) if share else None
        seconds = _seconds(lambda: family.encode(clip, layout=layout, shared=rows), family)
        return seconds, rows.rows if rows else []

    runs = [{share: encode(share) for share in draw.sample((False, True), 2)} for _ in range(1 + repeats)][1:]
    stock, shared = ([run[share][0] for run in runs] for share in (False, True))
    rows = runs[-1][True][1]
    computed = sum(rows) / (len(rows) * rows[-1])
    return TowerTiming(repeated, computed, Timing.of(stock), Timing.of(shared), paired_ratio(stock, shared))


def _seconds(run: Callable[[], object], family: Family) -> float:
    clock = time.process_time if family.device.type == "cpu" else time.perf_counter
    start = clock()
    run()
    if family.device.type == "cuda":
        torch.cuda.synchronize(family.device)
    return clock() - start
