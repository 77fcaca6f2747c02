# SPDX-License-Identifier: Apache-2.0
"""Spans of a video, found on what a frame encoder sees of its regions. There are two rules (``--span-rule``).

``gain``, the one of HoliTom on regions instead of tokens: a region repeats at a step when its similarity is at least
the encoder's ``same_region``; dynamic programming cuts the video so that regions that repeat through a whole span, and
could be stored once, save the most. A span is a stretch in which as much as possible stays as it is, so it ends at a
cut, and also where something else begins to move.

``fall``: a span ends where neighbouring frames stop looking alike, at every step whose similarity (the mean over the
regions) is below ``same_span``. It also ends where a step changes at least ``PART`` as much as that takes, ``RATIO``
times as much as the steps around it, and more than those beside it: a dissolve, which is no great change from one frame
to the next. A span is a scene, whatever moves in it.

``vidcomp bench spans`` measures both on clips with known cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vidcomp.core.tokens import Span
from vidcomp.methods.blocks.global_dp import global_spans
from vidcomp.spans.encoders import FrameEncoder

__all__ = ["Segments", "cut_steps", "find_segments"]

PART, RATIO = 0.5, 3.0
AROUND = 8  # steps on either side


@dataclass(frozen=True)
class Segments:
    """The spans that a frame encoder found.

    Attributes:
        segmenter: its name.
        rule: ``gain`` or ``fall``.
        similarity: [T - 1] float32, of neighbouring slices, mean over their regions.
        limit: similarity of a region that repeats, or of frames below which a span ends.
        spans: in slices, side by side over all T.
    """

    segmenter: str
    rule: str
    similarity: Tensor
    limit: float
    spans: tuple[Span, ...]


def find_segments(
    name: str, regions: Tensor, encoder: FrameEncoder, rule: str = "gain", limit: float | None = None
) -> Segments:
    """Cut a video into spans.

    Args:
        name: of the segmenter.
        regions: [T, R, F] from the encoder.
        encoder: says how alike two frames are.
        rule: ``gain`` or ``fall``.
        limit: of that rule; the encoder's own when None.
    """
    alike = encoder.by_region(regions[:-1], regions[1:])  # [T - 1, R]
    similarity = alike.mean(1)
    if rule == "gain":
        level = encoder.same_region if limit is None else limit
        found, _ = global_spans((alike >= level).cpu().numpy())
        spans = tuple(Span(span.start, span.end) for span in found)  # of regions, not of tokens: nothing is static yet
    else:
        level = encoder.same_span if limit is None else limit
        bounds = [0, *(cut_steps(similarity, level) + 1).tolist(), len(regions)]
        spans = tuple(Span(first, end - 1) for first, end in pairwise(bounds))
    return Segments(name, rule, similarity, level, spans)


def cut_steps(similarity: Tensor, limit: float) -> Tensor:
    """Indices of the steps at which a span ends by the rule ``fall``, ascending.

    Args:
        similarity: [S] of each step from a frame to the next.
        limit: similarity below which every step is a cut.
    """
    if not len(similarity):
        return torch.zeros(0, dtype=torch.int64, device=similarity.device)
    change, enough = 1 - similarity, 1 - limit
    beside = torch.nn.functional.pad(change, (1, 1), value=-torch.inf)
    highest = (change > beside[:-2]) & (change >= beside[2:])
    sudden = highest & (change >= PART * enough) & (change > RATIO * _usual(change))
    return ((change > enough) | sudden).nonzero()[:, 0]


def _usual(change: Tensor) -> Tensor:
    """[S], the median of the up to ``AROUND`` steps on either side of each; without any, its own."""
    padded = torch.nn.functional.pad(change, (AROUND, AROUND), value=torch.nan)
    windows = padded.unfold(0, 2 * AROUND + 1, 1).clone()  # [S, 17]
    windows[:, AROUND] = torch.nan
    return torch.where(windows.isnan().all(1), change, windows.nanmedian(1).values)
