# SPDX-License-Identifier: Apache-2.0
"""AOT: attended tokens per frame and clip that take the others in by optimal transport.

Paper: "Token Reduction via Local and Global Contexts Optimization for Efficient Video Large Language Models". Needs:
cls_by_layer (attention received, in towers without a class token).

In plain words, for V tokens of every frame:
1. Chosen: half of them spread over 3 x 3 windows by the attention in a shallow layer (5 of 26), the others by that of
   the last layer but one.
2. Within a frame, the chosen tokens take the others in, by an entropic transport whose cost is 1 - cosine plus half the
   distance on the grid, and for a tenth as the mean of those most similar to them.
3. In a clip of 4 frames (8 in videos of more than 32; a new one begins where a given span does), the chosen tokens of
   the first frame take in those of the later ones by another transport, frame after frame, whose cost also grows with
   time. Of each later frame the share ``residual`` stays as it is: the tokens whose transport is least sure of its
   goal.
Survivors are in raster order. Most tokens feed several of them.

Not as published: everything happens on the grid that the model reads (the published code works before pooling, and
then pools a mask too, so that its count depends on the content); the tokens of the first frame are listed once, after
they took in the others, instead of twice; windows share what does not divide among them (published: lost); any number
of frames; the budget is exact: V follows from it, and what is left over keeps more tokens as they are.
As published, and worth knowing: a transport of total mass one moves a chosen token by about a hundredth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import even_split, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Links, Reduction, Span, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.pieces import pieces
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import cosines
from vidcomp.methods.vscan import window_ranking

__all__ = ["Aot", "attended", "clip_length", "gathered", "taken_in"]

_EPS, _ROUNDS, _STILL = 0.1, 100, 0.01  # of both transports
_SHALLOW, _SECONDS = 5 / 26, 1.5  # relative depth of the shallow layer; how fast cost grows with time, in frames
_NEAREST = 0.1  # share of the mean of the most similar ones in step 2
_WINDOWS = 3


@dataclass(frozen=True)
class Aot(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        deep: share of the chosen tokens that the deep layer chooses, in [0, 1].
        residual: share of the tokens of a later frame that stay as they are, in [0, 1] (0.3, 0.1 or 0.4 in the
            published scripts).
        clip: frames per clip, at least 1; None is the published length.
    """

    deep: float = 0.5
    residual: float = 0.3
    clip: int | None = None

    name: ClassVar[str] = "aot"
    summary: ClassVar[str] = "attended tokens take in the others of their frame and clip, by optimal transport"
    source: ClassVar[Source] = Source("AOT", "CVPR 2026", "2603.01400", "https://github.com/TyroneLi/AOT")
    needs: ClassVar[frozenset[str]] = frozenset({"cls_by_layer"})
    exact: ClassVar[bool] = True
    span_rule: ClassVar[str] = "fall"
    parity: ClassVar[Parity] = "goldens"
    differs: ClassVar[str] = "works on the grid that the model reads, lists anchors once, and meets the budget exactly"

    def __post_init__(self) -> None:
        for name in ("deep", "residual"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.clip is not None and (not isinstance(self.clip, int) or self.clip < 1):
            raise ValueError(f"clip must be a whole number of at least 1, got {self.clip!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Choose, and take in frame by frame and clip by clip."""
        features = view.features.detach()
        frames, tokens = features.shape[:2]
        counts = even_split(token_budget(view.total, keep), frames)
        layers = signal(view, "cls_by_layer", self.name).float()
        depth = layers.shape[2]
        shallow, deep = layers[..., min(depth - 1, round(_SHALLOW * depth))], layers[..., max(0, depth - 2)]
        spans = pieces(frames, clip_length(frames, self.clip), view.spans)
        shares = []
        for span in spans:
            clip = slice(span.start, span.end + 1)
            budget = int(counts[clip].sum())
            chosen, stays = self._sizes(budget, len(span), tokens)
            if budget:
                local = chosen - math.ceil(chosen * self.deep)
                mask = attended(shallow[clip], deep[clip], view.grid, chosen, local)
                shares.append(_clip_shares(features[clip], mask, view.grid, stays, span.start * tokens))
        return _reduction(shares, view.total, spans)

    def _sizes(self, budget: int, length: int, tokens: int) -> tuple[int, list[int]]:
        """Chosen tokens per frame of a clip, and how many of each later frame stay, for so many survivors in all."""

        def cost(chosen: int) -> int:
            return chosen + (length - 1) * math.ceil(self.residual * (chosen - 1))

        chosen = next((number for number in range(min(tokens, budget), 0, -1) if cost(number) <= budget), 0)
        if length == 1 or not chosen:
            return chosen, []
        return chosen, even_split(budget - chosen, length - 1).tolist()


def clip_length(frames: int, clip: int | None = None) -> int:
    """Frames per clip: 4, or 8 in videos of more than 32, or as given."""
    return clip or (4 if frames <= 32 else 8)


def attended(shallow: Tensor, deep: Tensor, grid: tuple[int, int], count: int, local: int) -> Tensor:
    """Step 1 of the module: [T, N] bool, ``count`` tokens of each frame, ``local`` of them by windows."""
    local_counts = torch.full((len(deep),), local, device=deep.device)
    near = top_mask(window_ranking(shallow, grid, _WINDOWS), local_counts)
    return near | top_mask(deep.masked_fill(near, -torch.inf), count - local_counts)


def gathered(features: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Step 2 of the module: [T, V, N] share of every token in the V chosen ones of its frame, rows sum to one.

    Args:
        features: [T, N, D]; mask: [T, N] bool, V in every row.
    """
    frames, tokens = mask.shape
    order = (~mask).byte().argsort(dim=1, stable=True)
    count = int(mask[0].sum())
    chosen, others = order[:, :count], order[:, count:]
    eye = torch.zeros(frames, count, tokens, device=mask.device).scatter_(2, chosen[:, :, None], 1.0)
    if count == tokens:
        return eye
    frame = torch.arange(frames, device=mask.device)[:, None]
    cosine = cosines(features[frame, others], features[frame, chosen])  # [T, M, V]
    row, column = (torch.linspace(0, 1, size, device=mask.device) for size in grid)
    place = torch.cartesian_prod(row, column)
    plan = transport(1 - cosine + 0.5 * torch.cdist(place[others], place[chosen]))
    nearest = torch.zeros_like(plan).scatter_(2, cosine.argmax(dim=2, keepdim=True), 1.0)
    shares = torch.zeros_like(eye)
    for part, given in ((1 - _NEAREST, plan), (_NEAREST, nearest)):
        whole = given.transpose(1, 2)
        spread = eye.scatter_add(2, others[:, None].expand(-1, count, -1), whole)
        shares += part * spread / (1 + whole.sum(dim=2, keepdim=True))
    return shares


def transport(cost: Tensor) -> Tensor:
    """Entropic optimal transport [B, M, V] between equal masses, until it changes little over all B."""
    kernel = (-cost / _EPS).exp()
    left, right = torch.ones_like(kernel[:, :, 0]), torch.ones_like(kernel[:, 0])
    for _ in range(_ROUNDS):
        old = left
        left = 1 / kernel.shape[1] / (kernel * right[:, None]).sum(dim=2)
        right = 1 / kernel.shape[2] / (kernel * left[:, :, None]).sum(dim=1)
        if float((left - old).abs().mean()) < _STILL:
            break
    return left[:, :, None] * kernel * right[:, None]


def taken_in(rows: Sequence[Tensor], stays: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Step 3 of the module, for one clip.

    Args:
        rows: the chosen tokens of each frame, [n, D] float32; stays: of each later frame, how many stay as they are.

    Returns:
        [V, R] share of all rows in the V of the first frame; for each later frame which rows stay, ascending.
    """
    own, held = rows[0], torch.eye(len(rows[0]), device=rows[0].device)
    kept = []
    for number, (here, count) in enumerate(zip(rows[1:], stays, strict=True), 1):
        later = 1 - math.exp(-(number**2) / (2 * _SECONDS**2 + 1e-9))
        unlike = 1 - cosines(here, own).clamp(-1 + 1e-6, 1 - 1e-6)
        plan = transport((unlike - unlike.min())[None] * later)[0]
        goal = plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-9)  # [n, V]
        order = goal.amax(dim=1).argsort(stable=True)
        kept.append(order[:count].sort().values)
        goal = goal.index_fill(0, kept[-1], 0.0).T
        total = 1 + goal.sum(dim=1, keepdim=True)
        own, held = (own + goal @ here) / total, torch.cat([held, goal], dim=1) / total
    return held, kept


def _clip_shares(
    features: Tensor, mask: Tensor, grid: tuple[int, int], stays: Sequence[int], offset: int
) -> tuple[Tensor, Tensor, int]:
    """A clip's anchors [S] and the shares [S, t * N] of its tokens in them, the first of which is token ``offset``."""
    frames, tokens = mask.shape
    inside = gathered(features, mask, grid)  # [t, V, N]
    rows = torch.bmm(inside, features.float())
    held, kept = taken_in(list(rows), stays)
    shares = torch.einsum("vtu,tun->vtn", held.view(len(held), frames, -1), inside).flatten(1)
    place = mask.nonzero()[:, 1].view(frames, -1)
    anchors, parts = [place[0]], [shares]
    for frame, some in enumerate(kept, 1):
        anchors.append(place[frame, some] + frame * tokens)
        parts.append(inside.new_zeros(len(some), frames, tokens))
        parts[-1][:, frame] = inside[frame, some]
        parts[-1] = parts[-1].flatten(1)
    return torch.cat(anchors) + offset, torch.cat(parts), offset


def _reduction(clips: Sequence[tuple[Tensor, Tensor, int]], total: int, spans: tuple[Span, ...]) -> Reduction:
    """A token belongs to itself when it survives, else to the survivor in which its share is largest."""
    anchors = torch.cat([own for own, _, _ in clips])
    assign = torch.full((total,), -1, device=anchors.device)
    weight = torch.zeros(total, device=anchors.device)
    first, links = 0, []
    for own, shares, offset in clips:
        number = torch.arange(len(own), device=own.device)
        sure = shares.scatter(1, (own - offset)[:, None], 2.0)  # an anchor is its own whatever else it feeds
        owner = sure.argmax(dim=0)
        share = shares.gather(0, owner[None])[0]
        inside = slice(offset, offset + shares.shape[1])
        assign[inside] = torch.where(share > 0, owner + first, -1)
        weight[inside] = share
        rest = (shares > 0) & (number[:, None] != owner)
        survivor, token = rest.nonzero().unbind(1)
        links.append((token + offset, survivor + first, shares[rest]))
        first += len(own)
    token, survivor, value = (torch.cat(column) for column in zip(*links, strict=True))
    return Reduction(anchors, assign, weight, spans, more=Links(token, survivor, value) if len(token) else None)
