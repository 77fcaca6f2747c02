# SPDX-License-Identifier: Apache-2.0
"""Random thinning of the visual tokens while training, so that a small model survives what large ones survive.

Four in five batches see a random number of tokens. Which ones stay is a random blend of novelty against the previous
frame, activity of the place over the video, distinctiveness within the frame and chance; many tokens may also be
drawn by chance alone. Dropped tokens are mostly averaged into their most similar survivor, positions are kept or, more
rarely, closed up, and in the last layer a random half of the tokens is sometimes hidden. In other batches what repeats
is averaged over time first (see repeats.py). No published compression method is imitated.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor
from torch.nn import functional

from training.nano.model import FRAMES, GRID, VisualPrompt
from training.nano.repeats import allowed, choose, stretches

LEAST, MOST = 29, FRAMES * GRID * GRID + 1
"""Range of the number of visual tokens, the newline token included."""

_CHANCE_FROM = 100  # fewer tokens drawn by chance alone leave too many questions without an answer
_FEW = 80  # half of the thinned batches keep at most this many
_CLOSED_UP = 0.15  # share of the thinned batches whose positions are renumbered
_CENTER = (0.3, 0.9)  # share of the survivor itself in a merged token
_REPEATS = 0.65  # share of the thinned batches in which repeated places are averaged over time


def thin(prompt: VisualPrompt, dice: random.Random) -> VisualPrompt:
    """A random subset of the visual tokens [B, M, D] of whole 8-frame videos; the newline token stays last."""
    tokens, newline = prompt.tokens[:, :-1], prompt.tokens[:, -1:]
    total = tokens.shape[1]
    most = _FEW if dice.random() < 0.5 else MOST
    count = round(math.exp(dice.uniform(math.log(LEAST), math.log(most)))) - 1
    if count >= total:
        return prompt
    keep, kept = _merged_repeats(tokens, dice, count) if dice.random() < _REPEATS else _chosen(tokens, dice, count)
    places = keep + 1
    if dice.random() < _CLOSED_UP:
        places = torch.arange(1, count + 1, device=keep.device).expand(len(keep), -1)
        end = torch.full_like(places[:, :1], count + 1)
    else:
        end = torch.full_like(places[:, :1], total + 1)
    return VisualPrompt(torch.cat([kept, newline], 1), torch.cat([places, end], 1), keep)


def _chosen(tokens: Tensor, dice: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Survivors by score, their indices [B, count] and values [B, count, D]."""
    keep = _scores(tokens.detach().float(), dice, count).topk(count, 1).indices.sort(1).values
    return keep, _merge(tokens, keep, dice.uniform(*_CENTER) if dice.random() < 0.7 else 1.0)


def _merged_repeats(tokens: Tensor, dice: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Survivors after averaging over stretches of frames, as in :func:`_chosen`."""
    order = _rank_in_frame(_blend(tokens.detach().float(), dice)) + torch.rand(
        len(tokens), tokens.shape[1] // (GRID * GRID), GRID * GRID, device=tokens.device
    )
    parts = stretches(tokens, dice)
    keep = choose(parts, order, count, dice).float().topk(count, 1).indices.sort(1).values
    return keep, _merge(parts.values, keep, dice.uniform(*_CENTER), allowed(parts, keep, dice))


def late_mask(prompt: VisualPrompt, dice: random.Random) -> Tensor | None:
    """Mask [B, 1, 1, 1 + M] that hides a random half of the tokens from the text in the last layer, or nothing."""
    if dice.random() < 0.5:
        return None
    shape = (prompt.tokens.shape[0], 1, 1, prompt.tokens.shape[1] + 1)
    hidden = torch.rand(shape, device=prompt.tokens.device) < 0.5
    hidden[..., 0] = False
    return torch.zeros(shape, device=hidden.device).masked_fill(hidden, -1e4)


def random_tokens(prompt: VisualPrompt, count: int) -> VisualPrompt:
    """Exactly `count` visual tokens, all but the newline chosen by chance, positions closed up."""
    tokens, newline = prompt.tokens[:, :-1], prompt.tokens[:, -1:]
    keep = torch.rand(tokens.shape[:2]).topk(count - 1, 1).indices.sort(1).values
    return VisualPrompt(torch.cat([tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1])), newline], 1))


def _scores(tokens: Tensor, dice: random.Random, count: int) -> Tensor:
    """Which tokens to keep, [B, N]: chance, or a random blend of criteria."""
    chance = torch.rand(tokens.shape[:2], device=tokens.device)
    if count > _CHANCE_FROM and dice.random() < 0.35:
        return chance
    blend = _blend(tokens, dice)
    if dice.random() < 0.3:  # the same number from every frame
        blend = chance.view_as(blend) - _rank_in_frame(blend)
    scores: Tensor = blend.flatten(1)
    return scores


def _blend(tokens: Tensor, dice: random.Random) -> Tensor:
    """A random blend of novelty, activity, distinctiveness and chance, [B, T, 36]."""
    centered = functional.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
    grid = centered.view(len(tokens), -1, GRID * GRID, tokens.shape[-1])  # [B, T, 36, D]
    steps = 1 - (grid[:, 1:] * grid[:, :-1]).sum(-1)
    start = torch.full_like(steps[:, :1], dice.uniform(0.0, 1.0))
    novelty = torch.cat([start, steps], 1)
    activity = steps.amax(1, keepdim=True).expand_as(novelty)
    distinct = 1 - (grid * functional.normalize(grid.mean(2, keepdim=True), dim=-1)).sum(-1)
    if dice.random() < 0.5:
        blend = dice.random() * novelty + dice.random() * activity + dice.random() * distinct
    else:
        blend = (activity + 0.05) * (distinct + 0.05) + dice.random() * novelty
    return blend + dice.uniform(0.0, 0.3) * torch.rand_like(blend)


def _rank_in_frame(blend: Tensor) -> Tensor:
    """Place of every token among those of its frame, 0 for the largest value: [B, T, 36]."""
    return blend.argsort(-1, descending=True).argsort(-1).float()


def _merge(tokens: Tensor, keep: Tensor, center: float, may_join: Tensor | None = None) -> Tensor:
    """Blend every survivor [B, K, D] with the mean of the dropped tokens that resemble it most.

    `may_join` [B, N, K] says which token may be averaged into which survivor, None means every one into any.
    """
    kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
    if center >= 1:
        return kept
    sight = functional.normalize(tokens.detach().float(), dim=-1)
    anchors = sight.gather(1, keep[..., None].expand(-1, -1, sight.shape[-1]))
    likeness = sight @ anchors.transpose(1, 2)  # [B, N, K]
    joins = torch.ones(tokens.shape[:2], device=tokens.device).scatter(1, keep, 0.0)
    if may_join is not None:
        likeness, joins = likeness.where(may_join, -2.0), joins * may_join.any(-1)
    belongs = (
        functional.one_hot(likeness.argmax(-1), keep.shape[1]).to(tokens.dtype) * joins.to(tokens.dtype)[..., None]
    )
    members = belongs.sum(1)[..., None]  # [B, K, 1]
    mean = (belongs.transpose(1, 2) @ tokens) / members.clamp(min=1)
    return torch.where(members > 0, center * kept + (1 - center) * mean, kept)
