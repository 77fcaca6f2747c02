# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: SigLIP tower, projector, 2x2 bilinear pooling, one newline row after the last frame, Qwen2.

A stock prompt holds ``T * N + 1`` video placeholders, one for the newline.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from vidcomp.families.base import About, Encoded
from vidcomp.families.layout import Layout
from vidcomp.families.square import SquareFamily

__all__ = ["LlavaOnevision"]


class LlavaOnevision(SquareFamily):
    """Adapter for ``llava_onevision`` checkpoints, the embedded model among them."""

    model_type = "llava_onevision"
    about = About(
        "LLaVA-OneVision",
        tuple(f"llava-hf/llava-onevision-qwen2-{size}-ov-hf" for size in ("0.5b", "7b", "72b")),
        tokens="196 per frame (27 x 27 patches resized to 14 x 14)",
        between="one learned newline row after the last frame; it is no token and always stays",
        limits=("frames are squashed to a square",),
    )

    def tokens_per_side(self) -> int:
        """27 patches become 14 tokens."""
        return math.ceil(self.patches_per_side / 2)

    @property
    def merging_layers(self) -> tuple[nn.Module, ...]:
        """Those that can share rows."""
        return self.sharing_tower.layers

    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """[t, N, D], without the newline row."""
        # Positionally: the argument was renamed between releases. Newline: older releases add it later, in forward.
        out = self.model.base_model.get_video_features(pixels[None], return_dict=True)
        tokens: Tensor = out.pooler_output[0, : len(pixels) * layout.tokens]
        return Encoded(tokens.view(len(pixels), -1, tokens.shape[-1]))

    def pooled(self, planes: Tensor, layout: Layout) -> Tensor:
        """[t, C, side, side] resized like the features: [t, C, H, W]."""
        return F.interpolate(planes, size=layout.grid, mode="bilinear")

    def separators(self) -> Tensor:
        """The learned newline that follows the last frame: [1, D]."""
        newline: Tensor = self.model.base_model.image_newline.detach()
        return newline[None]
