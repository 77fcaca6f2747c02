# SPDX-License-Identifier: Apache-2.0
"""Random merging of what repeats while training: averages over stretches of frames, and clusters of places.

What compression methods for video have in common, with every decision left to chance within wide limits: a video is cut
where much changes; a place that stays alike over a stretch is stored once, as its mean, at the first frame; of those
means a random set is drawn, far from each other on the whole, and the others are averaged into the most similar one;
of the places that change some stay in every frame. Which similarity counts as alike, where cuts fall, how centres are
drawn and how much weight they keep is drawn anew for every batch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.nano.model import GRID

_CELLS = GRID * GRID
_ALIKE = (0.6, 0.95)  # range of the cosine above which neighbouring frames agree at a place
_CUT = (0.08, 0.9)  # range of the share of changed places above which a stretch ends
_STRAY = 0.06  # chance of a cut where nothing asks for one
_MERGED = 0.3  # part of the batches in which dropped changing tokens are averaged into survivors
_FIRST = 1e3  # distance to the nearest centre where there is none yet


@dataclass(frozen=True)
class Stretches:
    """Tokens of B videos of T frames, with what repeats averaged at the first frame of its stretch."""

    values: Tensor  # [B, T * 36, D]
    stretch: Tensor  # [B, T * 36] first frame of the stretch
    static: Tensor  # [B, T * 36] bool, alike over its whole stretch
    first: Tensor  # [B, T * 36] bool, in the first frame of the stretch


def stretches(tokens: Tensor, dice: random.Random) -> Stretches:
    """Cut videos [B, T * 36, D] and average what repeats."""
    batch, total, width = tokens.shape
    grid = tokens.view(batch, -1, _CELLS, width)
    frames = grid.shape[1]
    sight = functional.normalize(grid.detach().float(), dim=-1)
    alike = (sight[:, 1:] * sight[:, :-1]).sum(-1) > dice.uniform(*_ALIKE)  # [B, T - 1, 36]
    cut = (1 - alike.float().mean(-1) > dice.uniform(*_CUT)) | (
        torch.rand(alike.shape[:2], device=alike.device) < _STRAY
    )
    number = torch.arange(1, frames, device=cut.device).expand(batch, -1)
    start = functional.pad(torch.where(cut, number, 0).cummax(1).values, (1, 0))  # [B, T]
    broken = (~alike & ~cut[..., None]).float()
    where = start[..., None].expand(-1, -1, _CELLS)
    breaks = torch.zeros_like(where, dtype=torch.float).scatter_add(1, where[:, 1:], broken)
    static = breaks.gather(1, where) == 0
    length = torch.zeros_like(start, dtype=torch.float).scatter_add(1, start, torch.ones_like(start, dtype=torch.float))
    sums = torch.zeros_like(grid).scatter_add(1, where[..., None].expand_as(grid), grid)
    first = (start == torch.arange(frames, device=start.device)).float()
    means = sums / length.clamp(min=1)[..., None, None].to(sums.dtype)
    averaged = static & (first > 0)[..., None]
    values = torch.where(averaged[..., None], means, grid).view(batch, total, width)
    return Stretches(
        values, where.reshape(batch, total), static.flatten(1), (first > 0)[..., None].expand_as(where).flatten(1)
    )


def choose(parts: Stretches, order: Tensor, count: int, dice: random.Random) -> Tensor:
    """Which `count` tokens stay, bool [B, T * 36]: a proportional number of averages and of changing tokens.

    `order` [B, T, 36] ranks the tokens of a frame, lower stays. If there are too few of both kinds, repeated tokens
    stay as well.
    """
    single = parts.static & parts.first
    moving = ~parts.static
    averages, others = single.sum(1), moving.sum(1)
    share = count / (averages + others).clamp(min=count)
    wanted = (count - (averages * share).round().long()).clamp(min=min(8, count - 1))
    kept_others = wanted.minimum(others)
    rank = torch.where(moving, order.flatten(1), torch.inf).argsort(1).argsort(1)
    stay = rank < kept_others[:, None]
    stay = stay | _centres(parts, single, (count - kept_others).minimum(averages), dice)
    filler = torch.rand(stay.shape, device=stay.device) + 2 * stay.float()
    return filler.argsort(1, descending=True).argsort(1) < count


def _centres(parts: Stretches, single: Tensor, counts: Tensor, dice: random.Random) -> Tensor:
    """`counts` [B] of the averages, drawn one by one: the farther from those drawn before, the likelier."""
    sight = functional.normalize(parts.values.detach().float(), dim=-1)
    power, luck = dice.uniform(0.5, 2.0), dice.uniform(0.2, 1.0)
    gap = torch.where(single, _FIRST, 0.0)  # to the nearest centre of the same stretch
    taken = torch.zeros_like(single)
    rows = torch.arange(len(single), device=single.device)
    for number in range(int(counts.max())):
        noise = -torch.empty_like(gap).exponential_().log() * luck
        score = torch.where(single & ~taken, power * (gap + 1e-3).log() + noise, -torch.inf)
        pick = score.argmax(1)
        taken[rows, pick] |= single[rows, pick] & (number < counts)
        far = 1 - (sight @ sight[rows, pick][..., None])[..., 0]
        near = parts.stretch == parts.stretch[rows, pick][:, None]
        gap = torch.where(near, gap.minimum(far.clamp(min=0)), gap)
    return taken


def allowed(parts: Stretches, keep: Tensor, dice: random.Random) -> Tensor:
    """Which dropped token may be averaged into which survivor, bool [B, T * 36, K] for survivors `keep` [B, K]."""
    single = parts.static & parts.first
    frame = torch.arange(single.shape[1], device=single.device) // _CELLS
    kept = {name: part.gather(1, keep) for name, part in (("single", single), ("stretch", parts.stretch))}
    averages = single[..., None] & kept["single"][:, None] & (parts.stretch[..., None] == kept["stretch"][:, None])
    if dice.random() >= _MERGED:
        return averages
    same_frame = frame[None, :, None] == (keep // _CELLS)[:, None]
    return averages | (~parts.static[..., None] & ~kept["single"][:, None] & same_frame)
