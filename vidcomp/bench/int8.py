# SPDX-License-Identifier: Apache-2.0
"""Time and error of a vision tower in 8 bits, beside the same tower in float32, on the pictures of a video."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.bench.paired import MedianInterval, paired_ratio
from vidcomp.bench.timing import Timing
from vidcomp.families import Family

__all__ = ["TowerError", "bench_int8"]


@dataclass(frozen=True)
class TowerError:
    """A tower in 8 bits beside the one in float32.

    Attributes:
        plain, int8: CPU seconds of the two.
        ratio: how many times faster 8 bits are.
        mean, least: cosine of a token of the one with that of the other, of all tokens and of the worst.
    """

    plain: Timing
    int8: Timing
    ratio: MedianInterval | None
    mean: float
    least: float

    def to_dict(self) -> dict[str, object]:
        """As in ``bench int8 --json``."""
        return {
            "plain": self.plain.to_dict(), "int8": self.int8.to_dict(), "ratio": self.ratio and self.ratio.value,
            "ratio_interval": self.ratio and self.ratio.bounds, "cosine_mean": round(self.mean, 6),
            "cosine_least": round(self.least, 6),
        }  # fmt: skip


@torch.no_grad()
def bench_int8(plain: Family, int8: Family, clip: NDArray[np.uint8], *, repeats: int = 9, seed: int = 0) -> TowerError:
    """Encode a clip with both, in pairs whose order is drawn; one pair goes before and does not count.

    Args:
        plain: a model in float32.
        int8: the same weights, with a tower in 8 bits.
        clip: [T, h, w, 3] uint8.
        repeats: measured pairs.
        seed: of the order.
    """
    draw, families = random.Random(seed), {False: plain, True: int8}
    runs = [{kind: _timed(families[kind], clip) for kind in draw.sample((False, True), 2)} for _ in range(1 + repeats)]
    alike = torch.cosine_similarity(runs[0][False][1].float(), runs[0][True][1].float(), dim=-1)
    stock, fast = ([run[kind][0] for run in runs[1:]] for kind in (False, True))
    return TowerError(
        Timing.of(stock), Timing.of(fast), paired_ratio(stock, fast), float(alike.mean()), float(alike.min())
    )  # fmt: skip


def _timed(family: Family, clip: NDArray[np.uint8]) -> tuple[float, Tensor]:
    """CPU seconds and tokens [T, N, D] of one pass of the tower, so that other programs do not count."""
    layout, start = family.layout_of(clip), time.process_time()
    features = family.encode(clip, layout=layout).features
    return time.process_time() - start, features
