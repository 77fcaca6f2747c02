# SPDX-License-Identifier: Apache-2.0
"""VisionZip: the tokens that the tower attends to, and a few evenly spaced ones that absorb the rest.

Paper: "VisionZip: Longer is Better but Not Necessary in Vision Language Models".
The form for video is that of https://github.com/cokeshao/HoliTom. Needs: cls_attention, keys.

In plain words, within each frame, for a budget of S tokens:
1. The floor(S * dominant) most attended tokens survive as they are.
2. Of the rest, in order of position, every step-th is a target, as many as the budget has left; step = rest // targets.
3. Every other token joins the target whose key is most similar to its own (cosine).
Order: frame by frame the dominant tokens, then the targets, each by position.

A target becomes the mean of itself and those that joined, as the paper says. The published code adds their mean to the
target instead, which makes it about twice as long: ``official=True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import guarded_floor
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import even_budgets, listed, top_mask
from vidcomp.methods.blocks.similarity import products

__all__ = ["Visionzip", "evenly_spaced"]


@dataclass(frozen=True)
class Visionzip(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, spread evenly over the frames.

    Attributes:
        dominant: share of a frame's survivors that are chosen by attention, in [0, 1].
        official: add up instead of averaging, and keep the order of survivors even where all survive.
    """

    dominant: float = 54 / 64
    official: bool = False

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "keeps the most attended tokens of each frame; a few evenly spaced ones absorb the rest"
    source: ClassVar[Source] = Source(
        "VisionZip", "CVPR 2025", "2412.04467", "https://github.com/dvlab-research/VisionZip"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys"})
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "averages what joins instead of adding it up"

    def __post_init__(self) -> None:
        if not 0 <= self.dominant <= 1:
            raise ValueError(f"dominant must be in [0, 1], got {self.dominant}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select and merge within each frame.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signals.
        """
        counts = even_budgets(view, keep)
        attention, keys = (signal(view, name, self.name) for name in ("cls_attention", "keys"))
        best = torch.tensor([guarded_floor(count * self.dominant) for count in counts.tolist()], device=counts.device)
        dominant = top_mask(attention.float(), best)
        target = evenly_spaced(~dominant, counts - best)
        joined = _joined(keys, target)
        every = torch.arange(view.total, device=counts.device).view_as(joined)
        position = torch.where(dominant, every, torch.where(joined >= 0, joined + every[:, :1], -1))
        weight = self._weights(target, torch.where(dominant, -1, joined))
        return listed(torch.stack([dominant, target], dim=1), position, weight.where(~dominant, 1.0))

    def _weights(self, target: Tensor, joined: Tensor) -> Tensor:
        """[T, N] share of each token in the target at position ``joined`` [T, N], -1 for none."""
        member = joined >= 0
        place = joined.clamp(min=0)
        others = torch.zeros(target.shape, device=target.device).scatter_add_(1, place, (member & ~target).float())
        if self.official:
            share = torch.where(target, 1.0, 1 / others.gather(1, place))
        else:
            share = 1 / (1 + others.gather(1, place))
        return share.where(member, 0.0)


def evenly_spaced(free: Tensor, counts: Tensor) -> Tensor:
    """Mark ``counts`` [T] of the tokens in ``free`` [T, N]: every step-th by position, step = number // count."""
    number = free.cumsum(dim=1) - 1
    step = (free.sum(dim=1) // counts.clamp(min=1)).clamp(min=1)[:, None]
    return free & (number % step == 0) & (number // step < counts[:, None])


def _joined(keys: Tensor, target: Tensor) -> Tensor:
    """Position of the most similar target of each frame: [T, N] int64, a target its own, -1 in a frame without any."""
    most = int(target.sum(dim=1).max())
    if most == 0:
        return torch.full(target.shape, -1, device=target.device)
    places = (~target).byte().argsort(dim=1, stable=True)[:, :most]  # [T, most], the targets first
    unit = unit_rows(keys)
    chosen = unit.gather(1, places[:, :, None].expand(-1, -1, unit.shape[2]))
    similar = products(unit, chosen).masked_fill(~target.gather(1, places)[:, None, :], -torch.inf)
    joined = places.gather(1, similar.argmax(dim=2))
    every = torch.arange(target.shape[1], device=target.device)
    return torch.where(target, every, joined).where(target.any(dim=1, keepdim=True), -1)
