# SPDX-License-Identifier: Apache-2.0
"""Globally best spans: cut the video where storing repeated positions once saves the most tokens.

Source: "HoliTom: Holistic Token Merging for Fast Video Large Language Models", NeurIPS 2025, arXiv 2505.21334.
In plain words: a span of w + 1 frames saves w tokens for every position that stays similar through all of its w steps;
dynamic programming finds the cuts with the largest total. Ties go to the single frame, then to the shortest span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.tokens import Span

__all__ = ["given_spans", "global_spans", "static_positions"]


def global_spans(
    similarity: Tensor | NDArray[Any], tau: float | None = None, max_span: int = 1024
) -> tuple[tuple[Span, ...], int]:
    """Cut T frames into spans.

    Args:
        similarity: [T - 1, N], of each position in neighbouring frames; or bool, whether it counts as similar.
        tau: a position is similar when strictly above; not used with bool.
        max_span: longest span in frames.

    Returns:
        The spans in order, with their counts of static positions (0 for a single frame); the number of tokens saved.

    Raises:
        ValueError: similarity that is not 2-D, tau missing, or max_span below 1.
    """
    similar = _as_mask(similarity, tau)
    if max_span < 1:
        raise ValueError(f"max_span must be at least 1, got {max_span}")
    counts = _static_counts(similar, max_span - 1)  # [T - 1, longest run + 1]
    steps, gain = _best_steps(counts)
    spans: list[Span] = []
    end = similar.shape[0]
    while end >= 0:
        taken = steps[end]
        spans.append(Span(end - taken, end, int(counts[end - 1, taken]) if taken else 0))
        end -= taken + 1
    return tuple(reversed(spans)), gain


def given_spans(similar: NDArray[np.bool_], spans: Sequence[Span]) -> tuple[tuple[Span, ...], int]:
    """Spans that someone else has cut, with their counts of static positions, and the number of tokens saved.

    Args:
        similar: [T - 1, N], whether each position repeats in the next frame.
        spans: cover all T frames.
    """
    counts = static_positions(similar, tuple(spans)).sum(axis=1).tolist()
    counted = tuple(Span(span.start, span.end, count) for span, count in zip(spans, counts, strict=True))
    return counted, sum(span.static * (len(span) - 1) for span in counted)


def static_positions(similar: NDArray[np.bool_], spans: tuple[Span, ...]) -> NDArray[np.bool_]:
    """Mark the positions that stay similar over each span: [T - 1, N] to [spans, N]; none in a span of one frame."""
    changes = np.zeros((similar.shape[0] + 1, similar.shape[1]), dtype=np.int32)
    np.cumsum(~similar, axis=0, out=changes[1:])
    start = np.array([span.start for span in spans])
    end = np.array([span.end for span in spans])
    static: NDArray[np.bool_] = (changes[start] == changes[end]) & (end > start)[:, None]
    return static


def _as_mask(similarity: Tensor | NDArray[Any], tau: float | None) -> NDArray[np.bool_]:
    table = similarity if isinstance(similarity, Tensor) else torch.from_numpy(np.ascontiguousarray(similarity))
    if table.dim() != 2:
        raise ValueError(f"similarity must be [T - 1, N], got {list(table.shape)}")
    if table.dtype != torch.bool:
        if tau is None:
            raise ValueError("tau is needed to tell which similarities count")
        table = table > tau
    mask: NDArray[np.bool_] = table.cpu().numpy()
    return mask


def _static_counts(similar: NDArray[np.bool_], longest: int) -> NDArray[np.int64]:
    """Entry [e, w]: positions that were similar in each of the w steps ending with step e; w up to the longest run."""
    steps = similar.shape[0]
    number = np.arange(1, steps + 1)[:, None]
    run = np.minimum(number - np.maximum.accumulate(np.where(similar, 0, number), axis=0), longest)
    width = int(run.max(initial=0)) + 1
    exact = np.bincount((run + (number - 1) * width).ravel(), minlength=steps * width)
    at_least: NDArray[np.int64] = exact.reshape(steps, width)[:, ::-1].cumsum(axis=1)[:, ::-1]
    return at_least


def _best_steps(counts: NDArray[np.int64]) -> tuple[list[int], int]:
    """For each end frame the number of steps of its best last span, and the total saved up to the last frame."""
    frames, width = counts.shape[0] + 1, counts.shape[1]
    saved = np.zeros(frames + 1, dtype=np.int64)  # saved[i]: best total of the first i frames
    value = counts * np.arange(width)
    steps = [0]
    for end in range(1, frames):
        reach = min(end, width - 1)
        totals = saved[end - reach : end][::-1] + value[end - 1, 1 : reach + 1]  # spans of 2, 3, ... frames
        best = int(totals.argmax()) if reach else 0
        better = reach > 0 and totals[best] > saved[end]
        steps.append(best + 1 if better else 0)
        saved[end + 1] = totals[best] if better else saved[end]
    return steps, int(saved[frames])
