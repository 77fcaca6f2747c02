# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT-Video: CLIP tower, 2x2 average pooling before the projector, Vicuna."""

from __future__ import annotations

from torch import Tensor

from vidcomp.core.pixels import resize
from vidcomp.families.base import About, Encoded
from vidcomp.families.layout import Layout
from vidcomp.families.square import SquareFamily, frame_rows
from vidcomp.tower.probe import CLASS_SIGNALS, TOWER_SIGNALS

__all__ = ["LlavaNextVideo"]


class LlavaNextVideo(SquareFamily):
    """Adapter for ``llava_next_video`` checkpoints."""

    model_type = "llava_next_video"
    leading = 1
    signals = TOWER_SIGNALS | CLASS_SIGNALS
    about = About(
        "LLaVA-NeXT-Video",
        ("llava-hf/LLaVA-NeXT-Video-7B-hf", "llava-hf/LLaVA-NeXT-Video-34B-hf"),
        tokens="144 per frame (24 x 24 patches, 2 x 2 to one)",
        limits=(
            "the language model was made for 4096 positions, stretched 2.5 times",
            "a centre crop throws the sides of wide frames away, 44 % of a 16:9 picture",
        ),
    )

    def tokens_per_side(self) -> int:
        """24 patches become 12 tokens."""
        return self.patches_per_side // int(self.model.config.spatial_pool_stride)

    def squared(self, frames: Tensor, mode: str) -> Tensor:
        """Shorter side to ``size.shortest_edge``, then a centre crop."""
        height, width = frames.shape[-2:]
        short = int(self.settings["size"]["shortest_edge"])
        long = int(short * max(height, width) / min(height, width))
        resized = resize(frames, (short, long) if height <= width else (long, short), mode)
        crop = self.settings["crop_size"]
        high, wide = int(crop["height"]), int(crop["width"])
        top, left = (resized.shape[2] - high) // 2, (resized.shape[3] - wide) // 2
        return resized[:, :, top : top + high, left : left + wide]

    def seen_area(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The middle square."""
        x, y = ((1 - min(height, width) / side) / 2 for side in (width, height))
        return x, y, 1 - x, 1 - y

    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """[t, N, D]; a tensor in newer releases, one tensor per video in older ones."""
        out = self.model.base_model.get_video_features(pixels[None], return_dict=True).pooler_output
        return Encoded(frame_rows(out, layout))
