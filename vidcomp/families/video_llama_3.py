# SPDX-License-Identifier: Apache-2.0
"""VideoLLaMA3, native conversion: SigLIP tower at any size, 2x2 patches to one token, a time before every frame, Qwen2.

The stock processor of this family drops tokens by itself: those whose pixels hardly changed since the frame before. It
is switched off here, so that every method starts from the full grid and keep means the same as in other families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidcomp.core.published import VIDEO_LLAMA_3_RULE, fitted
from vidcomp.families.base import About
from vidcomp.families.layout import Layout
from vidcomp.families.packed import PackedFamily
from vidcomp.families.prompt import Markers

__all__ = ["VideoLlama3"]


class VideoLlama3(PackedFamily):
    """Adapter for ``video_llama_3`` checkpoints."""

    model_type = "video_llama_3"
    stock = VIDEO_LLAMA_3_RULE
    about = About(
        "VideoLLaMA3, native",
        ("lkhl/VideoLLaMA3-2B-Image-HF", "lkhl/VideoLLaMA3-7B-Image-HF"),
        tokens="(H / 28)(W / 28) per frame",
        between="`Time 1.5s:` before every frame and a comma between frames; they leave with a frame that lost all its "
        "tokens",
        limits=(
            "the upper pixel limit is shared by the frames of the clip, so more frames make smaller pictures",
            "the processor's own token compression is off: keep 1 is `use_token_compression=False`",
            "the stock forward computes logits for every row of the prompt, so a long prompt takes much memory",
            "the original repositories run remote code and are not supported",
        ),
    )

    def picture_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """The upper limit is divided among the frames."""
        size = self.settings["size"]
        least, most = int(size["shortest_edge"]), int(size["longest_edge"]) // frames
        return fitted(height, width, self.patch * self.merge, least, most)

    def stock_features(self, rows: Tensor, thw: Tensor) -> Any:
        """With the merge size, which is not in the model's config."""
        merge = torch.tensor([self.merge], device=rows.device)
        return self.model.base_model.get_video_features(rows, thw, merge, return_dict=True)

    def markers(self, layout: Layout) -> Markers:
        """Seconds with one decimal."""
        return Markers(tuple(f"Time {time:.1f}s:" for time in layout.times), joiner=",")
