# SPDX-License-Identifier: Apache-2.0
"""FastVID: cut the video where it changes, keep each frame's salient tokens, and let a few anchors absorb the rest.

Paper: "FastVID: Dynamic Density Pruning for Fast Video Large Language Models".
Needs: summary_attention, frame_features.

In plain words:
1. The video is cut at the ``cuts - 1`` least similar steps between neighbouring frame features, and wherever their
   cosine is below tau. Spans that are given (``--segmenter``) take the place of these segments.
2. Every frame keeps its most attended tokens; the share ``context`` of the budget is left for anchors.
3. In every segment each ``stride``-th frame, counted back from its last one, is an anchor frame. Its anchors are the
   peaks of density * separation (DPC-KNN) among its other tokens.
4. For each anchor frame on its own, all tokens of the segment that were not kept by attention join their most similar
   anchor (cosine). With n of them an anchor becomes w * anchor + (1 - w) * their mean, w = max(1 / (n + 1), beta). So
   with several anchor frames a token feeds several survivors.
Survivors stay in the order of the video.

The published code comes in two versions. ``onevision`` rounds down per frame and per anchor frame, counts an anchor
among those that join it, and leaves a frame alone whose anchors are no more than its own share; ``llava_video`` spreads
remainders, over the first frames and the last anchor frames, and does not count a frame's own anchors. Here the budget
is met exactly: remainders as in the second, members as in the first; ``official`` names a version to reproduce.
The published code loads SigLIP's pooling head for attention and frame features, which stock checkpoints of video models
lack; there the mean query's attention and the means of the features take their place, as published for Qwen. For Qwen
the published code also leaves out frames that repeat the next one (cosine from 0.95 on) when it shares the budget out;
here they get their share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import allocate, even_split, guarded_floor, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Links, Reduction, Span, TokenView
from vidcomp.methods.base import Method, Parity, check_keep, exact_unless, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.dpc_knn import ranked_groups
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import cosines, widest_float

__all__ = ["Fastvid", "Quota", "cut_spans"]

_VERSIONS = (None, "onevision", "llava_video")
_TAU = 0.9
_MEMBERS = 2048  # compared with all anchors of their segment at once


@dataclass(frozen=True)
class Fastvid(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens; about as many with ``official``.

    Attributes:
        cuts: least number of segments.
        tau: cosine of neighbouring frames below which the video is cut; None is 0.9, and 0.84 with Qwen2.5-VL.
        context: share of the budget for anchors, in [0, 1].
        stride: frames per anchor frame.
        beta: least weight of an anchor in what it becomes, in [0, 1].
        k: neighbours of the density.
        official: ``onevision`` or ``llava_video``: counts and members as in that version of the published code, which
            may merge at keep 1 too.
    """

    cuts: int = 8
    tau: float | None = None
    context: float = 0.4
    stride: int = 4
    beta: float = 0.6
    k: int = 4
    official: str | None = None

    name: ClassVar[str] = "fastvid"
    summary: ClassVar[str] = (
        "cuts the video where it changes, keeps attended tokens, lets density peaks absorb the rest"
    )
    source: ClassVar[Source] = Source("FastVID", "NeurIPS 2025", "2503.11187", "https://github.com/LunarShen/FastVID")
    needs: ClassVar[frozenset[str]] = frozenset({"summary_attention", "frame_features"})
    exact: ClassVar[bool] = exact_unless("official")
    span_rule: ClassVar[str] = "fall"
    by_family: ClassVar[Mapping[str, Mapping[str, Any]]] = {"qwen2_5_vl": {"tau": 0.84}}
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=onevision or official=llava_video"
    differs: ClassVar[str] = (
        "meets the budget exactly, with the remainders of the second and the members of the first version"
    )

    def __post_init__(self) -> None:
        for name in ("cuts", "stride", "k"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        for name in ("context", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.tau != self.tau:
            raise ValueError("tau must be a number")
        if self.official not in _VERSIONS:
            raise ValueError(f"official must be none, onevision or llava_video, got {self.official}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select and merge within segments.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signals.
        """
        check_keep(keep)
        attention, seen = (signal(view, name, self.name) for name in ("summary_attention", "frame_features"))
        features, (frames, tokens) = view.features.detach(), view.features.shape[:2]
        spans = view.spans or cut_spans(seen, self.cuts, _TAU if self.tau is None else self.tau)
        quota = self._quota(spans, frames, tokens, keep)
        salient = top_mask(attention.float(), torch.from_numpy(quota.salient).to(features.device))
        anchors = _peaks(features, salient, quota.anchors, self.k)
        links = [self._absorbed(features, salient, anchors, span, quota) for span in spans]
        return _reduction(salient, anchors, [part for part in links if part is not None], spans)

    def _quota(self, spans: Sequence[Span], frames: int, tokens: int, keep: float) -> Quota:
        lengths = [len(span) for span in spans]
        if self.official is not None:
            per_frame = int(tokens * keep)
            budgets = [per_frame * length for length in lengths]
        else:
            each = even_split(token_budget(frames * tokens, keep), frames)
            budgets = [int(each[span.start : span.end + 1].sum()) for span in spans]
        if self.official == "onevision":
            context = int(per_frame * self.context)
            parts = [self._rounded_down(length, per_frame, context, tokens) for length in lengths]
        else:
            parts = [self._spread(length, budget, tokens) for length, budget in zip(lengths, budgets, strict=True)]
        salient, anchors, alone = (np.concatenate(column) for column in zip(*parts, strict=True))
        if not salient.any() and not anchors.any():
            salient[0] = 1
        return Quota(salient, anchors, alone)

    def _spread(self, length: int, budget: int, tokens: int) -> tuple[NDArray[np.int64], ...]:
        """Counts of one segment with an exact sum."""
        context = int(budget * self.context) if self.official else guarded_floor(budget * self.context)
        peaks, salient = _anchor_frames(length, self.stride), _front(budget - context, length)
        anchors = np.zeros(length, dtype=np.int64)
        anchors[peaks] = np.minimum(_front(context, len(peaks))[::-1], tokens - salient[peaks])
        salient = allocate(np.ones(length), budget - int(anchors.sum()), tokens - anchors)
        return salient, anchors, np.zeros(length, dtype=np.bool_)

    def _rounded_down(self, length: int, budget: int, context: int, tokens: int) -> tuple[NDArray[np.int64], ...]:
        """Counts of one segment as in the OneVision version; what does not fit goes to salient tokens."""
        peaks = _anchor_frames(length, self.stride)
        salient = np.full(length, budget - context, dtype=np.int64)
        anchors = np.zeros(length, dtype=np.int64)
        wanted = context * length // len(peaks)
        anchors[peaks] = min(wanted, tokens - (budget - context))
        missing = len(peaks) * wanted - int(anchors.sum())
        if missing:
            salient = allocate(np.ones(length), int(salient.sum()) + missing, tokens - anchors)
        return salient, anchors, np.full(length, wanted == context)

    def _absorbed(
        self, features: Tensor, salient: Tensor, anchors: Tensor, span: Span, quota: Quota
    ) -> tuple[Tensor, ...] | None:
        """Links of one segment: token [E], survivor's flat index [E], weight [E], cosine [E]."""
        part = slice(span.start, span.end + 1)
        offset, tokens = span.start * salient.shape[1], salient.shape[1]
        free = (~salient[part]).flatten().nonzero()[:, 0]
        peak = anchors[part].flatten()
        targets = peak.nonzero()[:, 0]
        if not len(targets):
            return None
        frames, sizes = torch.unique_consecutive(targets // tokens, return_counts=True)
        groups = torch.split(targets, sizes.tolist())
        value, index = _nearest(features[part].flatten(0, 1), free, groups)
        links = []
        for i, frame in enumerate(frames.tolist()):
            joins = torch.ones_like(free, dtype=torch.bool)
            if quota.alone[span.start + frame]:
                joins = free // tokens == frame
            if self.official == "llava_video":
                joins = ~(peak[free] & (free // tokens == frame))
            links.append(self._shares(free[joins], groups[i], value[joins, i], index[joins, i]))
        token, survivor, weight, value = (torch.cat(column) for column in zip(*links, strict=True))
        return token + offset, survivor + offset, weight, value

    def _shares(self, members: Tensor, targets: Tensor, cosine: Tensor, nearest: Tensor) -> tuple[Tensor, ...]:
        """Links of one anchor frame: members [m] join the target at ``nearest`` [m]; targets keep their own share."""
        count = torch.bincount(nearest, minlength=len(targets)).float()
        keeps = (1 / (count + 1)).clamp(min=self.beta)
        token = torch.cat([targets, members])
        survivor = torch.cat([targets, targets[nearest]])
        weight = torch.cat([keeps, ((1 - keeps) / count)[nearest]])
        return token, survivor, weight, torch.cat([torch.full_like(keeps, torch.inf), cosine])


@dataclass(frozen=True)
class Quota:
    """Counts per frame, [T] each: salient tokens, anchors, and whether anchors absorb tokens of their frame only.

    Attributes:
        salient: tokens kept by attention.
        anchors: tokens that others merge into.
        alone: anchors absorb tokens of their own frame only.
    """

    salient: NDArray[np.int64]
    anchors: NDArray[np.int64]
    alone: NDArray[np.bool_]


def cut_spans(seen: Tensor, cuts: int, tau: float) -> tuple[Span, ...]:
    """Step 1, from frame features [T, F]; ties go to the earlier cut."""
    unit = unit_rows(seen).to(widest_float(seen.device))
    steps = (unit[:-1] * unit[1:]).sum(dim=1).float()
    lowest = steps.argsort(stable=True)[: cuts - 1].tolist()
    ends = sorted({*lowest, *(steps < tau).nonzero()[:, 0].tolist()})
    bounds = [-1, *ends, len(seen) - 1]
    return tuple(Span(before + 1, end) for before, end in pairwise(bounds))


def _anchor_frames(length: int, stride: int) -> list[int]:
    """Every ``stride``-th frame of a segment counted back from its last one, ascending."""
    return list(range(length - 1, -1, -stride))[::-1]


def _front(total: int, parts: int) -> NDArray[np.int64]:
    """``total`` in equal parts, the remainder one each to the first."""
    counts = np.full(parts, total // parts, dtype=np.int64)
    counts[: total % parts] += 1
    return counts


def _peaks(features: Tensor, salient: Tensor, counts: NDArray[np.int64], k: int) -> Tensor:
    """[T, N] bool: in each frame, of the tokens that are not salient, the ``counts`` [T] highest peaks of density."""
    marked = torch.zeros_like(salient)
    frames = np.flatnonzero(counts)
    if not frames.size:
        return marked
    index = torch.from_numpy(frames).to(features.device)
    places = salient[index].byte().argsort(dim=1, stable=True)  # [G, N], candidates first
    sizes = (~salient[index]).sum(dim=1).cpu().numpy()
    places = places[:, : sizes.max()]

    def fetch(low: int, high: int, most: int) -> Tensor:
        rows = features[index[low:high, None], places[low:high, :most]].float()
        return rows - rows[:, :1]

    owner, _ = ranked_groups(sizes, counts[frames], k, fetch, features.shape[2], features.device, capped=False)
    place = torch.arange(owner.shape[1], device=owner.device)
    centre = (owner == place) & (place < torch.from_numpy(sizes).to(owner.device)[:, None])
    row, column = centre.nonzero().unbind(1)
    marked[index[row], places[row, column]] = True
    return marked


def _nearest(rows: Tensor, members: Tensor, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """For each member [m] and group of targets the largest cosine and the index in the group, both [m, groups].

    A block of members at a time: a long still segment has many anchors, and a table of all pairs would not fit.
    """
    targets = rows[torch.cat(list(groups))]
    bounds = [0, *accumulate(len(group) for group in groups)]
    values, indices = [], []
    for part in torch.split(members, _MEMBERS):
        table = cosines(rows[part], targets)
        best = [table[:, low:high].max(dim=1) for low, high in pairwise(bounds)]
        values.append(torch.stack([pair.values for pair in best], dim=1))
        indices.append(torch.stack([pair.indices for pair in best], dim=1))
    return torch.cat(values), torch.cat(indices)


def _reduction(
    salient: Tensor, anchors: Tensor, links: Sequence[tuple[Tensor, ...]], spans: tuple[Span, ...]
) -> Reduction:
    """Every token belongs to itself when it survives, else to the most similar anchor it feeds."""
    survives = (salient | anchors).flatten()
    number = survives.cumsum(0) - 1
    assign = torch.where(salient.flatten(), number, -1)
    weight = salient.flatten().float()
    if not links:
        return Reduction(survives.nonzero()[:, 0], assign, weight, spans)
    token, survivor, share, value = (torch.cat(column) for column in zip(*links, strict=True))
    order = value.argsort(descending=True, stable=True)
    order = order[token[order].argsort(stable=True)]  # by token, its own share or its nearest anchor first
    token, survivor, share = token[order], survivor[order], share[order]
    first = torch.ones_like(token, dtype=torch.bool)
    first[1:] = token[1:] != token[:-1]
    assign[token[first]], weight[token[first]] = number[survivor[first]], share[first]
    rest = ~first & (share > 0)
    more = Links(token[rest], number[survivor[rest]], share[rest]) if bool(rest.any()) else None
    return Reduction(survives.nonzero()[:, 0], assign, weight, spans, more=more)
