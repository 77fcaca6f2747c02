# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL, dense and mixture of experts: pairs of frames, each behind a written time, and DeepStack.

DeepStack: features of three earlier tower layers are added to the visual rows after the first three layers of the
language model. They are merged with the weights of their tokens, and leave with them.
"""

from __future__ import annotations

from dataclasses import replace

from vidcomp.core.published import QWEN3_RULE, fitted
from vidcomp.families.base import About, ModelShape
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Markers
from vidcomp.families.qwen2_5_vl import Qwen2VL
from vidcomp.tower.shared import SharingTower

__all__ = ["Qwen3VL", "Qwen3VLMoe"]


class Qwen3VL(Qwen2VL):
    """Adapter for ``qwen3_vl`` checkpoints."""

    model_type = "qwen3_vl"
    stock = QWEN3_RULE
    about = About(
        "Qwen3-VL",
        tuple(f"Qwen/Qwen3-VL-{size}-Instruct" for size in ("2B", "4B", "8B", "32B")),
        tokens="(H / 32)(W / 32) per two frames",
        between="the time of every pair of frames, as text, and a start and an end token; they leave with a pair that "
        "lost all its tokens",
        limits=(
            "the pixel limit is that of the whole clip, so more frames make smaller pictures; a clip costs at most "
            "12288 tokens with the hub's settings",
            "a slice is a pair of frames: it is encoded when either frame changed, and spans end at pairs",
            "the prompt is that of the installed library, which leaves an outer pair of start and end tokens around "
            "all times; releases before 5 did not",
            "a row that is merged away inside the language model before layer 3 takes its later DeepStack share with "
            "it",
        ),
    )

    @property
    def sharing_tower(self) -> SharingTower:
        """The language model reads the output of three more layers."""
        tower, taps = super().sharing_tower, self.model.config.vision_config.deepstack_visual_indexes
        return replace(tower, tapped=frozenset(tap for tap in taps if tap < len(tower.layers) - 1))

    def picture_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Limits hold for the whole clip, counted in whole slices."""
        size, unit = self.settings["size"], self.patch * self.merge
        least, most = int(size["shortest_edge"]), int(size["longest_edge"])
        frames = max(frames, self.frames_per_slice)
        if self.settings.get("cap_pixels_per_frame"):
            cap = self.settings.get("max_video_tokens", 768) * unit**2
            most = max(min(cap, most // frames), int(least * 1.05)) * frames
        if min(height, width) < unit:
            scale = max(unit / height, unit / width)
            height, width = int(height * scale), int(width * scale)
        return fitted(height, width, unit, least, most, frames, counted=round(frames / 2) * 2)

    def markers(self, layout: Layout) -> Markers:
        """``<0.5 seconds>`` and a start token before each pair, an end token after it."""
        times = (f"<{time:.1f} seconds><|vision_start|>" for time in layout.times)
        return Markers(tuple(times), closing="<|vision_end|>")


class Qwen3VLMoe(Qwen3VL):
    """Adapter for ``qwen3_vl_moe`` checkpoints: the same around another language model."""

    model_type = "qwen3_vl_moe"
    about = About(
        "Qwen3-VL, mixture of experts",
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct"),
        tokens=Qwen3VL.about.tokens,
        between=Qwen3VL.about.between,
        limits=(*Qwen3VL.about.limits, "reported FLOPs count the experts that a token visits, in every layer"),
    )

    @property
    def shape(self) -> ModelShape:
        """The MLP is as wide as the experts that one token visits."""
        text = self.model.config.get_text_config()
        return replace(super().shape, mlp_width=text.num_experts_per_tok * text.moe_intermediate_size)
