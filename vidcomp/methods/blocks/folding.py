# SPDX-License-Identifier: Apache-2.0
"""Bipartite merging of each frame alone, pass after pass, down to a budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.methods.blocks.bipartite import pair_up

__all__ = ["Folded", "fold"]


@dataclass(frozen=True)
class Folded:
    """Outcome for the tokens of a group of frames.

    Attributes:
        owner: [T, N] int64, number of the survivor that holds each token, -1 in a frame without a budget.
        place: [T, S] int64, the position in the frame at which each survivor stands, S the largest budget; padding
            holds no meaning.
    """

    owner: Tensor
    place: Tensor

    def anchors(self) -> Tensor:
        """[T * N] int64: flat index of the token at which each token's survivor stands, -1 for a dropped token."""
        frames, tokens = self.owner.shape
        start = torch.arange(frames, device=self.owner.device)[:, None] * tokens
        anchor = self.place.gather(1, self.owner.clamp(min=0)) + start
        return torch.where(self.owner >= 0, anchor, -1).flatten()

    def first_members(self) -> Tensor:
        """Like :meth:`anchors`, with every survivor at its first token instead."""
        frames, tokens = self.owner.shape
        place = torch.arange(tokens, device=self.owner.device).expand(frames, tokens)
        lowest = torch.full_like(self.place, tokens).scatter_reduce(1, self.owner.clamp(min=0), place, "amin")
        return Folded(self.owner, lowest).anchors()


def fold(metric: Tensor, budgets: Tensor, reluctance: Tensor | None = None) -> Folded:
    """Merge the tokens of every frame, at most half of them in a pass, until its budget is reached.

    Args:
        metric: [T, N, K], what is compared; merged tokens are compared by the mean over their members.
        budgets: [T] int64, survivors of each frame; a frame of budget zero is dropped.
        reluctance: [T, N], taken off the cosine of a token that would be merged into another; also a mean over members.
    """
    owner = torch.full(metric.shape[:2], -1, device=metric.device)
    place = torch.zeros(len(metric), max(1, int(budgets.max())), dtype=torch.int64, device=metric.device)
    for budget in sorted(set(budgets.tolist())):
        frames = (budgets == budget).nonzero()[:, 0]
        if budget:
            part = None if reluctance is None else reluctance[frames].float()
            owner[frames], place[frames, :budget] = _folded(metric[frames].float(), budget, part)
    return Folded(owner, place)


def _folded(metric: Tensor, budget: int, reluctance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Owners [G, N] and places [G, budget] of frames [G, N, K] with the same budget."""
    groups, tokens = metric.shape[:2]
    owner = place = torch.arange(tokens, device=metric.device).expand(groups, tokens)
    sizes = torch.ones(groups, tokens, device=metric.device)
    while metric.shape[1] > budget:
        size = metric.shape[1]
        penalty = None if reluctance is None else reluctance[:, ::2]
        step = pair_up(metric, min(size - budget, size // 2), sizes=sizes, penalty=penalty)
        metric = step.merged(metric)
        if reluctance is not None:
            reluctance = step.merged(reluctance[:, :, None])[:, :, 0]
        sizes = torch.zeros(step.anchor.shape, device=metric.device).scatter_add_(1, step.owner, sizes)
        owner, place = step.owner.gather(1, owner), place.gather(1, step.anchor)
    return owner, place
