# SPDX-License-Identifier: Apache-2.0
"""LongVU's reducers: drop frames that look like their neighbourhood, keep detail where the question asks, drop repeats.

Paper: "LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding".
Needs: frame_features, query.

In plain words, for a budget of V tokens, N per frame and n per frame at low resolution (two thirds per side, bilinear):
1. If the video would not fit even at low resolution, frames are dropped: in windows of 16, a frame's mean cosine with
   all frames of the window, itself included, has to be below ``same_frame``; the middle frame always stays.
2. If the frames fit at full resolution, they get it. If there is room for more than low resolution, the frames that
   score highest against the question (mean product of their low-resolution tokens with its embeddings) are kept at full
   resolution, as many as fit.
3. Otherwise, if the low-resolution tokens do not fit, windows of 8 frames keep their first frame and, of the others,
   tokens whose cosine with that frame's token is below ``same_token``.
4. If that is still too much, the tokens most similar to what they were compared with go, the first frames of windows
   being compared with the window before.
5. If less than V is used, dropped frames come back at low resolution, those least like their windows first.
The published code has no step 5; in step 4 it cuts off the end of every window, however different it is; and it thins
more than 400 frames evenly: ``official=True``.

The published system is trained; in a stock model the products of step 2 mean less. frame_features come from
``--segmenter dinov2``: 8 x 8 regions of a small DINOv2, where the published system takes every patch of the largest
one, and drops frames before its own tower. Or else they are means of the model's own features, which are much more
alike than the threshold of step 1 was made for; a note says so. The achieved number is at most V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Links, Reduction, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import frame_cosine, widest_float

__all__ = ["Longvu", "LowResolution", "changed_tokens", "unusual_frames"]

_WINDOW = 16  # frames that are compared with each other
_CHUNK = 8  # frames whose tokens are compared with the first one's
_MOST_FRAMES = 400  # of the published code


@dataclass(frozen=True)
class Longvu(Method):
    """At most the ceiling of ``keep * T * N`` tokens.

    Attributes:
        same_frame: mean cosine in its window from which a frame is dropped.
        same_token: cosine with the first frame of its window from which a token is dropped.
        official: cut as in the published code.
    """

    same_frame: float = 0.83
    same_token: float = 0.8
    official: bool = False

    name: ClassVar[str] = "longvu"
    summary: ClassVar[str] = "drops frames that look alike, keeps detail where the question asks, drops repeated tokens"
    source: ClassVar[Source] = Source("LongVU", "ICML 2025", "2410.17434", "https://github.com/Vision-CAIR/LongVU")
    needs: ClassVar[frozenset[str]] = frozenset({"frame_features", "query"})
    rule: ClassVar[str] = "drops frames and tokens that repeat"
    frame_encoder: ClassVar[str | None] = "dinov2"
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=true"
    differs: ClassVar[str] = (
        "brings dropped frames back where the budget allows it, and drops the most similar tokens "
        "instead of the last ones"
    )

    def __post_init__(self) -> None:
        for name in ("same_frame", "same_token"):
            if (value := getattr(self, name)) != value:
                raise ValueError(f"{name} must be a number")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Choose frames, resolutions and tokens.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signals.
        """
        budget = token_budget(view.total, keep)
        seen, query = (signal(view, name, self.name) for name in ("frame_features", "query"))
        features, (frames, tokens) = view.features.detach(), view.features.shape[:2]
        low = LowResolution.of(view.grid, features.device)
        chosen = torch.arange(frames, device=features.device)
        if frames >= max(1, budget // low.count):
            limit = _MOST_FRAMES if self.official else budget
            chosen = unusual_frames(seen, self.same_frame, limit)
        sharp = torch.zeros(frames, dtype=torch.bool, device=features.device)
        room = (budget - len(chosen) * low.count) // max(1, tokens - low.count)
        if len(chosen) * tokens <= budget:
            sharp[chosen] = True
        elif room > 0:
            scores = (features[chosen].float().transpose(1, 2) @ low.mean) @ query.float().mean(dim=0)
            sharp[chosen[scores.argsort(descending=True, stable=True)[:room]]] = True
        if len(chosen) * low.count > budget:
            kept = changed_tokens(low.apply(features[chosen]), budget, self.same_token, tail=self.official)
            return low.reduction(frames, sharp, chosen, kept)
        if not self.official:
            spare = budget - len(chosen) * low.count - int(sharp.sum()) * (tokens - low.count)
            chosen = _brought_back(chosen, seen, spare // low.count)
        return low.reduction(frames, sharp, chosen, torch.ones(len(chosen), low.count, device=sharp.device).bool())


def unusual_frames(seen: Tensor, threshold: float, limit: int, window: int = _WINDOW) -> Tensor:
    """Step 1.

    Args:
        seen: [T, F], one vector per frame.
        threshold: a frame stays when its mean cosine in the window is below.
        limit: more frames than this are thinned evenly.
        window: frames per window; the last one may be shorter.

    Returns:
        Ascending indices of the frames that stay, int64.
    """
    left = (_likeness(seen, window) < threshold).nonzero()[:, 0]
    if len(left) > limit:
        left = left[torch.arange(limit, device=left.device) * len(left) // limit]
    return left


def _likeness(seen: Tensor, window: int) -> Tensor:
    """[T] float32: mean cosine with the frames of its window; minus infinity for the middle frame."""
    unit = unit_rows(seen).to(widest_float(seen.device))
    parts = [(part @ part.mean(dim=0)).float() for part in torch.split(unit, window)]
    for part in parts:
        part[len(part) // 2] = -torch.inf
    return torch.cat(parts)


def _brought_back(chosen: Tensor, seen: Tensor, count: int) -> Tensor:
    """``chosen`` and up to ``count`` more frames, those least like their windows, ascending."""
    order = _likeness(seen, _WINDOW).argsort(stable=True)
    order = order[~torch.isin(order, chosen)]
    return torch.cat([chosen, order[: max(0, count)]]).sort().values


def changed_tokens(features: Tensor, budget: int, threshold: float, *, tail: bool, window: int = _CHUNK) -> Tensor:
    """Steps 3 and 4.

    Args:
        features: [T, N, D].
        budget: tokens that may stay; when all fit, all stay.
        threshold: cosine with the first frame of the window from which a token goes.
        tail: cut off the end of every window, and then of the video, instead of what is most similar.
        window: frames per window.

    Returns:
        [T, N] bool.
    """
    frames, tokens = features.shape[:2]
    kept = torch.ones(frames, tokens, dtype=torch.bool, device=features.device)
    if frames * tokens <= budget:
        return kept
    frame = torch.arange(frames)
    first = frame // window * window
    likeness = frame_cosine(features, frame, torch.where(frame == first, (frame - window).clamp(min=0), first))
    starts = (frame == first).to(features.device)[:, None]
    kept = starts | (likeness < threshold)
    if int(kept.sum()) <= budget:
        return kept
    if tail:
        return _without_tails(kept, budget, window)
    likeness[0] = -torch.inf
    ranking = (-likeness).masked_fill(~kept, -torch.inf)
    return top_mask(ranking.reshape(1, -1), torch.tensor([budget], device=kept.device)).view_as(kept)


def _without_tails(kept: Tensor, budget: int, window: int) -> Tensor:
    chunks = torch.split(kept, window)
    cut = -((budget - int(kept.sum())) // len(chunks))
    shorter = torch.cat([chunk.flatten() & (_left(chunk) > cut) for chunk in chunks])
    shorter[0] |= ~shorter.any()  # the tails may be everything: the first token stays
    return (shorter & (shorter.cumsum(0) <= budget)).view_as(kept)


def _left(chunk: Tensor) -> Tensor:
    """For each token, flattened, how many kept ones come at or after it."""
    return chunk.flatten().flip(0).cumsum(0).flip(0)


@dataclass(frozen=True)
class LowResolution:
    """A frame at two thirds of its resolution per side.

    Attributes:
        table: [n, N] float32, weight of each token in each low-resolution token.
        anchor: [n] int64, ascending: the token that each one stands at.
    """

    table: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, grid: tuple[int, int], device: torch.device) -> LowResolution:
        """Bilinear resizing without smoothing, as a table."""
        size = (max(1, round(grid[0] * 2 / 3)), max(1, round(grid[1] * 2 / 3)))
        every = torch.eye(grid[0] * grid[1], device=device).view(1, -1, *grid)
        table = F.interpolate(every, size=size, mode="bilinear", align_corners=False)[0].flatten(1).T
        return cls(table, table.argmax(dim=1))

    @property
    def count(self) -> int:
        """n, tokens per frame."""
        return self.table.shape[0]

    @property
    def mean(self) -> Tensor:
        """[N], weight of each token in the mean of all low-resolution tokens."""
        return self.table.mean(dim=0)

    def apply(self, features: Tensor) -> Tensor:
        """[T, N, D] to [T, n, D] float32."""
        return torch.stack([self.table @ frame.float() for frame in features])

    def reduction(self, frames: int, sharp: Tensor, chosen: Tensor, kept: Tensor) -> Reduction:
        """Frames marked in ``sharp`` [T] whole, the others of ``chosen`` [F] by their ``kept`` [F, n] tokens."""
        count, tokens = self.table.shape
        device = self.table.device
        table = torch.zeros(frames, count, dtype=torch.bool, device=device)
        table[chosen] = kept
        table &= ~sharp[:, None]
        survives = sharp[:, None].repeat(1, tokens)
        survives[:, self.anchor] |= table
        number = (survives.flatten().cumsum(0) - 1).view(frames, tokens)
        main = self.table.argmax(dim=0)  # the low-resolution token that each token belongs to
        main[self.anchor] = torch.arange(count, device=device)
        every = torch.arange(tokens, device=device)
        part = self.table[main, every]
        inside = table[:, main] & (part > 0)
        assign = torch.where(sharp[:, None], number, torch.where(inside, number[:, self.anchor[main]], -1))
        weight = torch.where(sharp[:, None], 1.0, part * inside)
        others = self.table.clone()
        others[main, every] = 0
        low, token = others.nonzero().unbind(1)
        frame, entry = table[:, low].nonzero().unbind(1)
        more = Links(
            frame * tokens + token[entry], number[frame, self.anchor[low[entry]]], others[low[entry], token[entry]]
        )
        anchors = survives.flatten().nonzero()[:, 0]
        return Reduction(anchors, assign.flatten(), weight.flatten(), more=more if len(entry) else None)
