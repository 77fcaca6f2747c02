# SPDX-License-Identifier: Apache-2.0
"""VisPruner and FasterVLM: tokens that the tower attends to, and others that are not duplicates of each other.

Paper: "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs".
FasterVLM is the first version of the same work, attention alone. Needs: cls_attention; VisPruner also encoder_features.

In plain words, within each frame, for a budget of S tokens:
1. The floor(S * important) most attended tokens survive.
2. The others stand in line by falling attention. As long as more are in line than the budget has left, up to eight go:
   those at even places are compared with those at odd places (cosine before the projector), and the even ones most
   similar to any odd one leave. Then the remaining even ones line up by falling similarity, and the odd ones behind.

The published code fails on most lines of odd length; this is the rule without that fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.select import even_budgets, keep_marked, top_mask
from vidcomp.methods.blocks.similarity import cosines

__all__ = ["Fastervlm", "Vispruner", "without_duplicates"]

_ROUND = 8  # tokens that leave at once


@dataclass(frozen=True)
class Vispruner(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, spread evenly over the frames.

    Attributes:
        important: share of a frame's survivors that are chosen by attention, in [0, 1].
    """

    important: float = 0.5

    name: ClassVar[str] = "vispruner"
    summary: ClassVar[str] = "keeps the most attended tokens of each frame and, of the rest, no duplicates"
    source: ClassVar[Source] = Source("VisPruner", "ICCV 2025", "2412.01818", "https://github.com/Theia-4869/VisPruner")
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention", "encoder_features"})
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise ValueError(f"important must be in [0, 1], got {self.important}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select within each frame.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signals.
        """
        counts = even_budgets(view, keep)
        attention, rows = (signal(view, name, self.name) for name in ("cls_attention", "encoder_features"))
        kept = torch.zeros(attention.shape, dtype=torch.bool, device=attention.device)
        similar = torch.stack([cosines(frame, frame) for frame in rows])  # [T, N, N]
        line = attention.float().argsort(dim=1, descending=True, stable=True)
        for count in set(counts.tolist()):  # two numbers that differ by one
            some = (counts == count).nonzero()[:, 0]
            best = int(count * self.important)
            varied = without_duplicates(similar[some], line[some, best:], count - best)
            kept[some[:, None], torch.cat([line[some, :best], varied], dim=1)] = True
        return keep_marked(kept)


@dataclass(frozen=True)
class Fastervlm(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, spread evenly over the frames."""

    name: ClassVar[str] = "fastervlm"
    summary: ClassVar[str] = "keeps the most attended tokens of each frame"
    source: ClassVar[Source] = Source("FasterVLM", arxiv="2412.01818v1", code="https://github.com/Theia-4869/FasterVLM")
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention"})
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select within each frame.

        Raises:
            ValueError: keep outside (0, 1], or a view without attention.
        """
        counts = even_budgets(view, keep)
        return keep_marked(top_mask(signal(view, "cls_attention", self.name).float(), counts))


def without_duplicates(similar: Tensor, line: Tensor, count: int) -> Tensor:
    """Step 2.

    Args:
        similar: [F, N, N], cosines between the tokens of each frame.
        line: [F, R] int64, positions in order.
        count: how many stay, from 0 to R.

    Returns:
        [F, count] int64, the positions that stay, in their last order.
    """
    if count == 0:
        return line[:, :0]
    while (size := line.shape[1]) > count:
        even, odd = line[:, ::2], line[:, 1::2]
        leave = min(_ROUND, size - count, even.shape[1])
        table = similar.gather(1, even[:, :, None].expand(-1, -1, similar.shape[2]))
        nearest = table.gather(2, odd[:, None, :].expand(-1, even.shape[1], -1)).amax(dim=2)
        order = nearest.argsort(dim=1, descending=True, stable=True)
        line = torch.cat([even.gather(1, order[:, leave:]), odd], dim=1)
    return line
