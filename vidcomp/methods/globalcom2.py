# SPDX-License-Identifier: Apache-2.0
"""GlobalCom2: a thumbnail decides how much each crop of a picture may keep.

Paper: "Global Compression Commander".
Needs: the class token's attention (attention received, in towers without one).

In plain words, for multi-crop input, a thumbnail followed by the crops of the same picture, and a keep ratio r:
1. The thumbnail keeps the share r of its tokens with the most attention.
2. Its attention, resized (bilinear) to the mosaic of crops and split, says how important each crop is: E, the sum of
   its part.
3. With w = softmax(E / 10) a crop keeps at the rate r * (1 + w - mean of w), at most everything.
4. In a crop a token scores its own attention over the length of the crop's, plus the thumbnail's over the length of
   that.

For a video there is no thumbnail. There the mean attention map of all frames takes its place in step 4, every frame
is a crop, and E is how unlike the video the frame is (one minus the cosine of their mean tokens, from 0 to 10): an
idea of this project, not of the source.

Our reading: rates become whole numbers by largest remainder, so the budget is exact; the published code rounds down
and does not settle what clipping leaves over. Attention is softmax attention; the published code takes logits of the
last layer, whose size decides how far the rates spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import allocate, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.errors import UsageError
from vidcomp.methods.base import Method, check_keep, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import keep_marked, top_mask

__all__ = ["Globalcom2", "crop_budgets", "mosaic_parts"]

_TEMPERATURE = 10.0


@dataclass(frozen=True)
class Globalcom2(Method):
    """Parameters.

    Attributes:
        mosaic: rows and columns of crops, such as ``2x2``, for a view that holds a thumbnail and then the crops row
            by row; None for a video.
    """

    mosaic: str | None = None

    name: ClassVar[str] = "globalcom2"
    summary: ClassVar[str] = "a global look decides how much each crop, or frame, keeps of its attended tokens"
    source: ClassVar[Source] = Source(
        "GlobalCom2", "AAAI 2026", "2501.05179", "https://github.com/xuyang-liu16/GlobalCom2"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mosaic is not None:
            _rows_and_columns(self.mosaic)

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``ceil(keep * T * N)`` tokens.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signal.
            UsageError: the view does not hold a thumbnail and the mosaic's crops.
        """
        check_keep(keep)
        attention = signal(view, "cls_attention", self.name).float()  # [T, N]
        frames, tokens = attention.shape
        budget = token_budget(view.total, keep)
        if self.mosaic is None:
            whole = attention.mean(dim=0).expand_as(attention)
            counts = crop_budgets(_unlike_video(view.features.detach()), budget, tokens)
        else:
            rows, columns = _rows_and_columns(self.mosaic)
            if frames != 1 + rows * columns:
                why = f"it describes a thumbnail and {rows * columns} crops"
                raise UsageError(f"globalcom2:mosaic={self.mosaic} for {frames} pictures", why=why, code="bad_option")
            parts = mosaic_parts(attention[0].reshape(view.grid), rows, columns)
            whole = torch.cat([attention[:1], parts])
            thumbnail = min(tokens, budget // frames)
            crops = crop_budgets(parts.sum(dim=1), budget - thumbnail, tokens)
            counts = np.concatenate([[thumbnail], crops])
        scores = _scaled(attention) + _scaled(whole)
        return keep_marked(top_mask(scores, torch.from_numpy(counts).to(scores.device)))


def crop_budgets(importance: Tensor, budget: int, tokens: int) -> NDArray[np.int64]:
    """Steps 2 and 3 of the module: whole numbers [G] with the exact sum ``budget``, at most ``tokens`` each."""
    weight = (importance / _TEMPERATURE).cpu().double().softmax(dim=0)
    rate = 1 + weight - weight.mean()
    return allocate(rate.numpy(), budget, [tokens] * len(rate))


def mosaic_parts(thumbnail: Tensor, rows: int, columns: int) -> Tensor:
    """A map [H, W] resized to rows x columns crops of its own size and split: [rows * columns, H * W]."""
    height, width = thumbnail.shape
    size = (rows * height, columns * width)
    large = F.interpolate(thumbnail[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    parts = large.reshape(rows, height, columns, width).transpose(1, 2)
    return parts.reshape(rows * columns, height * width)


def _scaled(scores: Tensor) -> Tensor:
    """Each row [T, N] over its length."""
    return scores / scores.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)


def _unlike_video(features: Tensor) -> Tensor:
    """One minus the cosine of each frame's mean token with that of the video, times ten: [T]."""
    middle = features.mean(dim=1, dtype=torch.float32)
    cosine = (unit_rows(middle) * unit_rows(middle.mean(dim=0))).sum(dim=1)
    return _TEMPERATURE * (1 - cosine)


def _rows_and_columns(mosaic: str) -> tuple[int, int]:
    parts = str(mosaic).split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"mosaic must be rows and columns, such as 2x2, got {mosaic!r}")
    return int(parts[0]), int(parts[1])
