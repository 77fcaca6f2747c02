# SPDX-License-Identifier: Apache-2.0
"""Ask, and say what became of every visual token: from the decision that was applied and from the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidcomp.core.trace import TokenTrace
from vidcomp.engine.generate import Prefill
from vidcomp.engine.videos import CompressedVideo, EncodedVideo
from vidcomp.result import Answer
from vidcomp.video.given import VideoInput

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM

__all__ = ["trace_of", "traced"]


def traced(lm: VideoLM, video: VideoInput | EncodedVideo, question: str, **settings: Any) -> tuple[Answer, TokenTrace]:
    """As :meth:`~vidcomp.VideoLM.ask`, with the trace of the tokens."""
    read: list[tuple[CompressedVideo, Prefill]] = []
    answer = lm.ask(video, question, trace=lambda *seen: read.append(seen), **settings)
    height, width = answer.frames.pixels.shape[1:3]
    return answer, trace_of(*read[0], area=lm.family.seen_area(height, width))


def trace_of(
    video: CompressedVideo, prefill: Prefill, area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> TokenTrace:
    """The trace of a request whose forward pass is done.

    Args:
        video: holds the decision of the outer stage.
        prefill: holds the rows that every layer read.
        area: the part of the frame that the tower reads.
    """
    encoded, reduction = video.encoded, video.reduction
    layout, links = encoded.layout, reduction.more
    return TokenTrace(
        grid=layout.grid,
        members=tuple(layout.members(index) for index in range(layout.slices)),
        times=layout.frame_times,
        encoded=_array(encoded.plan.encode[torch.isin(encoded.plan.encode, encoded.entered)]),
        similarity=_seen(encoded),
        anchors=_array(reduction.anchors),
        owner=_array(reduction.assign),
        links=np.zeros((2, 0), np.int64) if links is None else _array(torch.stack([links.token, links.survivor])),
        inner={layer: kept for layer, kept in _survivors(prefill).items() if layer},
        area=area,
    )


def _survivors(prefill: Prefill) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Layer to the survivors that it read."""
    survivor = torch.full((len(prefill.is_token),), -1).masked_scatter_(prefill.is_token, prefill.survivor)
    read = {layer: survivor[rows[0].cpu()] for layer, rows in prefill.cache.measured.survivors.items()}
    return {layer: _array(found[found >= 0]) for layer, found in read.items()}


def _seen(encoded: EncodedVideo) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[T - 1] of neighbouring slices, as the segmenter saw them, or else their own features."""
    if encoded.segments is not None:
        return np.asarray(encoded.segments.similarity.double().cpu().numpy(), np.float64)
    return _similarity(encoded.view.features, encoded.plan.source)


def _similarity(features: Tensor, source: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[T - 1] mean cosine of neighbouring slices, from the encoded ones [E, N, D]; 1 where one stands for both."""
    unit = F.normalize(features.detach().float(), dim=-1)
    between = (unit[1:] * unit[:-1]).sum(-1).mean(-1).double().cpu()  # [E - 1]
    changes = source[1:] != source[:-1]
    found = torch.ones(len(changes), dtype=torch.float64)
    found[changes] = between[source[1:][changes] - 1]
    return np.asarray(found.numpy(), np.float64)


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(values.cpu().numpy(), np.int64)
