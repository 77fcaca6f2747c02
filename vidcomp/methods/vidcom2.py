# SPDX-License-Identifier: Apache-2.0
"""VidCom2: tokens unlike their video and their frame survive, and unusual frames may keep a little more.

Paper: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models".
Needs nothing but the features.

In plain words: of the channels the half that varies least is looked at; tokens are scaled to length one there.
1. A token's commonness is a sum of Gaussians of its distance to the mean of the video, plus the same to the mean of its
   frame.
2. A frame is unusual when its tokens are far from the video's mean; a softmax over frames turns that into shares, and a
   frame keeps ``keep * (1 + share - mean share)`` of its tokens, at least one.
3. Each frame keeps its least common tokens.
Counts are rounded per frame. Then the least common tokens that were left out come in, or the most common ones that were
kept go, over the whole video, until the number is the budget; vLLM does the same. ``official=True`` leaves that out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, exact_unless
from vidcomp.methods.blocks.equal import first_equal, first_of_same
from vidcomp.methods.blocks.select import keep_marked, top_mask

__all__ = ["Commonness", "Vidcom2"]

_SCALES = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@dataclass(frozen=True)
class Vidcom2(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        temperature: of the softmax over frames; above zero.
        channels: share of the channels that is looked at, in (0, 1].
        official: counts as in the published code, rounded per frame; common frames lose tokens even at
            ``keep=1``.
    """

    temperature: float = 0.01
    channels: float = 0.5
    official: bool = False

    name: ClassVar[str] = "vidcom2"
    summary: ClassVar[str] = "keeps tokens unlike their video and their frame, more of them in unusual frames"
    source: ClassVar[Source] = Source("VidCom2", "EMNLP 2025", "2505.14454", "https://github.com/xuyang-liu16/VidCom2")
    exact: ClassVar[bool] = exact_unless("official")
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = "brings the rounded counts to the exact budget"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels must be in (0, 1], got {self.channels}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the least common tokens.

        Raises:
            ValueError: keep outside (0, 1].
        """
        budget = token_budget(view.total, keep)
        common = Commonness.of(view.features.detach(), self.channels)
        score, tokens = common.video + common.frame, view.features.shape[1]
        counts = (common.scales(keep, self.temperature) * tokens).round().clamp(min=1).long().to(score.device)
        kept = top_mask(-score, counts)
        return keep_marked(kept if self.official else _reconciled(kept, score, budget))


@dataclass(frozen=True)
class Commonness:
    """Nearness of tokens to the mean of the video and to that of their frame: both [T, N] float32, up to 5."""

    video: Tensor
    frame: Tensor

    @classmethod
    def of(cls, features: Tensor, channels: float = 0.5) -> Commonness:
        """Measure features [T, N, D] over the share of channels that varies least."""
        frames, tokens, width = features.shape
        rows = features.reshape(-1, width)
        calm = _variance(features).argsort(stable=True)[: max(1, int(width * channels))]
        mask = torch.zeros(width, device=rows.device)
        mask[calm] = 1
        length, centre, own = (
            torch.stack(column) for column in zip(*(_centred(f, mask) for f in features), strict=True)
        )
        middle = centre.mean(dim=0)
        along = torch.stack([(frame.float() @ middle) for frame in features]) / length
        first = first_equal(rows)  # products may round differently per row: equal tokens must score equally
        frame_of = torch.arange(len(rows), device=rows.device) // tokens
        twin = first_of_same(first * frames + frame_of)  # the first equal token of the same frame
        solid = length.isfinite()  # a zero vector stays where it is
        video = _nearness(solid + middle.square().sum() - 2 * along)
        frame = _nearness(solid + centre.square().sum(dim=1, keepdim=True) - 2 * own)
        return cls(video.flatten()[first].view(frames, tokens), frame.flatten()[twin].view(frames, tokens))

    def scales(self, keep: float, temperature: float) -> Tensor:
        """[T] float64 on the CPU, the share of its tokens that each frame keeps."""
        unusual = -self.video.cpu().double().mean(dim=1)
        share = ((unusual - unusual.max()) / temperature).softmax(dim=0)
        return (keep * (1 + share - share.mean())).clamp(max=1)


def _variance(features: Tensor) -> Tensor:
    """[D] float32, of each channel over all tokens, in one read; the first token is taken off for precision."""
    shift, total = features[0, 0].float(), features.shape[0] * features.shape[1]
    sums, squares = torch.zeros(2, features.shape[2], device=features.device)
    for frame in features:
        apart = frame.float() - shift
        sums += apart.sum(dim=0)
        squares += apart.square_().sum(dim=0)
    variance: Tensor = squares / total - (sums / total).square()
    return variance


def _centred(frame: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [N, D] over the channels in ``mask`` [D] and scaled to length one, without writing them down.

    Returns:
        [N] lengths, infinite for a zero vector; [D] their mean; [N] products with it.
    """
    rows = frame.float()
    length = (rows.square() @ mask).sqrt()
    length = torch.where(length > 0, length, torch.inf)
    mean = (1 / length) @ rows * mask / len(rows)
    return length, mean, (rows @ mean) / length


def _nearness(apart: Tensor) -> Tensor:
    """Sum of Gaussians of squared distances [T, N]."""
    return torch.stack([(-apart / (2 * scale)).exp() for scale in _SCALES]).sum(dim=0)


def _reconciled(kept: Tensor, score: Tensor, budget: int) -> Tensor:
    """Drop the most common kept tokens, or add the least common others, until ``budget`` are kept."""
    surplus = int(kept.sum()) - budget
    rank = torch.where(kept, -math.inf, -score) if surplus < 0 else torch.where(kept, score, -math.inf)
    changed = rank.flatten().argsort(descending=True, stable=True)[: abs(surplus)]
    flat = kept.flatten().clone()
    flat[changed] = surplus < 0
    return flat.view_as(kept)
