# SPDX-License-Identifier: Apache-2.0
"""InternVL3 and InternVL3.5: InternViT tower with a class token, pixel shuffle, a numbered line per frame, Qwen2 or 3.

The stock model takes the frames of a video as images, without times.
"""

from __future__ import annotations

from torch import Tensor

from vidcomp.core.published import INTERNVL_RULE
from vidcomp.families.base import About, Encoded
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Markers
from vidcomp.families.square import SquareFamily
from vidcomp.tower.probe import CLASS_SIGNALS, TOWER_SIGNALS

__all__ = ["InternVL"]


class InternVL(SquareFamily):
    """Adapter for ``internvl`` checkpoints in the hub's ``-hf`` format."""

    model_type = "internvl"
    stock = INTERNVL_RULE
    visual = "<IMG_CONTEXT>"
    visual_key = "image_token_id"
    frame_line, first_frame = r"Frame\d+: ?<img>$", r"Frame1: ?<img>$"
    leading = 1
    signals = TOWER_SIGNALS | CLASS_SIGNALS
    about = About(
        "InternVL3, InternVL3.5",
        ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3-8B-hf", "OpenGVLab/InternVL3_5-8B-HF"),
        tokens="256 per frame (32 x 32 patches, 2 x 2 to one)",
        between="a line `Frame7: <img>...</img>` per frame; the line leaves with a frame that lost all its tokens, the "
        "others keep their numbers",
        limits=("frames are squashed to a square", "only repositories in the `-hf` format; the others run remote code"),
    )

    def tokens_per_side(self) -> int:
        """32 patches become 16 tokens."""
        return int(self.patches_per_side * self.model.config.downsample_ratio)

    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """[t, N, D]."""
        return Encoded(self.model.base_model.get_image_features(pixels, return_dict=True).pooler_output)

    def markers(self, layout: Layout) -> Markers:
        """Frames are counted from 1."""
        lines = (f"Frame{number}: <img>" for number in range(1, layout.slices + 1))
        return Markers(tuple(lines), closing="</img>", joiner="\n")
