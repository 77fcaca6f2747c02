# SPDX-License-Identifier: Apache-2.0
"""LFTR-like: merge alike neighbouring frames, then keep the most distinct positions of each.

After: "LFTR: Learning-Free Token Reduction for Multimodal Large Language Models". Needs nothing but features.
This is NOT a reproduction: no code was found, and only abstracts and short summaries were readable. They
say that similar adjacent frames are merged, that less significant patches are removed, and that both follow from
differences and similarities; all else here is our reading, which is why the name says "like".

In plain words, for a keep ratio r and ``time`` = sqrt(r):
1. The two neighbouring groups of frames whose means are most alike (mean cosine over positions) become one, until
   round(T * time) groups are left; a group's mean is that of all its frames. Groups do not
   grow across spans that are given (``--segmenter``), so that there are at least as many as these.
2. A merged token is significant when it is unlike the others of its group: one minus its mean cosine with them. The
   most significant positions survive, as many as the budget, spread evenly over the groups, allows.
A survivor stands in the first frame of its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vidcomp.core.budget import even_split, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods.base import Method
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import top_mask

__all__ = ["LftrLike", "distinctness", "merged_frames"]


@dataclass(frozen=True)
class LftrLike(Method):
    """Parameters.

    Attributes:
        time: share of the frames that remain, in (0, 1]; None is the square root of the keep ratio.
    """

    time: float | None = None

    name: ClassVar[str] = "lftr_like"
    summary: ClassVar[str] = "merges alike neighbouring frames, keeps the most distinct positions of each"
    source: ClassVar[Source] = Source("LFTR", arxiv="2501.17391", note="not a reproduction")
    exact: ClassVar[bool] = True
    span_rule: ClassVar[str] = "fall"

    def __post_init__(self) -> None:
        if self.time is not None and not 0 < self.time <= 1:
            raise ValueError(f"time must be in (0, 1] or None, got {self.time}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``ceil(keep * T * N)`` tokens survive."""
        frames, tokens = view.features.shape[:2]
        budget = token_budget(view.total, keep)
        wanted = round(frames * (keep**0.5 if self.time is None else self.time))
        groups = max(-(-budget // tokens), min(wanted, budget), 1)  # enough for the budget, and none without a token
        spans, means = merged_frames(view.features.detach(), groups, [span.end for span in view.spans[:-1]])
        counts = torch.from_numpy(even_split(budget, len(spans))).to(means.device)
        kept = top_mask(distinctness(means), counts)  # [G, N]
        first = torch.tensor([span.start for span in spans], device=kept.device)
        group = torch.repeat_interleave(torch.tensor([len(span) for span in spans], device=kept.device))
        place = torch.arange(tokens, device=kept.device)
        anchor = torch.where(kept[group], first[group, None] * tokens + place, -1)
        return mean_of_members(anchor.flatten(), spans)


def merged_frames(features: Tensor, groups: int, ends: Sequence[int] = ()) -> tuple[tuple[Span, ...], Tensor]:
    """Step 1 of the module: [T, N, D] to spans, and their means [G, N, D] float32; ties to the earliest.

    Args:
        features: of all frames.
        groups: spans that are wanted.
        ends: frames that are not merged with the next one, however many spans that leaves.
    """
    means = [frame.float() for frame in features.unbind(0)]
    spans = [Span(frame, frame) for frame in range(len(features))]
    alike = np.array([_alike(one, other) for one, other in pairwise(means)])
    alike[list(ends)] = -np.inf
    while len(spans) > groups and alike.max() > -np.inf:
        at = int(alike.argmax())
        one, other = len(spans[at]), len(spans[at + 1])
        means[at] = (means[at] * one + means.pop(at + 1) * other) / (one + other)
        spans[at] = Span(spans[at].start, spans.pop(at + 1).end)
        alike = np.delete(alike, at)
        for pair in range(max(0, at - 1), min(at + 1, len(spans) - 1)):
            if alike[pair] > -np.inf:
                alike[pair] = _alike(means[pair], means[pair + 1])
    return tuple(spans), torch.stack(means)


def _alike(one: Tensor, other: Tensor) -> float:
    """Mean cosine of two frames [N, D], position by position."""
    return float((unit_rows(one) * unit_rows(other)).sum(dim=1).mean())


def distinctness(means: Tensor) -> Tensor:
    """One minus the mean cosine of each token with the others of its group: [G, N, D] to [G, N].

    The sum of the cosines with all others is a token's product with the sum of all, minus its product with itself.
    """
    found = torch.empty(means.shape[:2], device=means.device)
    for group, rows in enumerate(means):
        unit = unit_rows(rows)
        own = unit.square().sum(dim=1)
        found[group] = 1 - ((unit * unit.sum(dim=0)).sum(dim=1) - own) / max(1, len(unit) - 1)
    return found
