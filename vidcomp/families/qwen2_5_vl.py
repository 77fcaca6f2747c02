# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL and Qwen2-VL: pairs of frames, pictures of any size, three rotary axes that carry time and place.

Positions are those that the installed library computes, so that the plain model stays what it is: temporal ids follow
the seconds between slices, and text goes on after the larger side of the grid, below the last temporal id of a long
clip. (Older releases went on after the maximum.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidcomp.core.published import QWEN2_RULE, fitted
from vidcomp.families.base import About
from vidcomp.families.layout import Layout
from vidcomp.families.packed import PackedFamily
from vidcomp.families.prompt import Prompt
from vidcomp.tower.probe import TOWER_SIGNALS, encoder_layers

__all__ = ["Qwen25VL", "Qwen2VL"]

_GRID_NOTE = (
    "the grid follows the decoded size, with the checkpoint's pixel limits per frame: two frames of 1280 x 720 cost "
    "1196 tokens"
)


class Qwen2VL(PackedFamily):
    """Adapter for ``qwen2_vl`` checkpoints."""

    model_type = "qwen2_vl"
    stock = QWEN2_RULE
    frames_per_slice = 2
    default_positions = "keep"
    position_axes = 3
    about = About(
        "Qwen2-VL",
        tuple(f"Qwen/Qwen2-VL-{size}-Instruct" for size in ("2B", "7B", "72B")),
        tokens="(H / 28)(W / 28) per two frames",
        limits=(
            _GRID_NOTE,
            "a slice is a pair of frames: it is encoded when either frame changed, and spans end at pairs",
            "temporal positions count slices, not seconds",
        ),
    )

    def picture_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Limits hold per frame, with ``cap_pixels_per_frame`` also for the whole clip."""
        size, unit = self.settings["size"], self.patch * self.merge
        least, most = int(size["shortest_edge"]), int(size["longest_edge"])
        if self.settings.get("cap_pixels_per_frame"):
            share = int(self.settings.get("max_video_tokens", 128000) * unit**2 * 0.9) * self.frames_per_slice // frames
            most = max(min(most, share), int(least * 1.05))
        return fitted(height, width, unit, least, most)

    def position_rows(self, prompt: Prompt, layout: Layout) -> Tensor:
        """Temporal, vertical and horizontal ids [3, S] from the installed library."""
        ids = prompt.full_ids(layout.tokens, 0, self.visual_id)[None]
        rows, _ = self.model.base_model.get_rope_index(
            ids, mm_token_type_ids=(ids == self.visual_id).int() * 2, video_grid_thw=self.thw(layout.slices, layout),
            attention_mask=torch.ones_like(ids), **self.clock(layout),
        )  # fmt: skip
        positions: Tensor = rows[:, 0]
        return positions

    def clock(self, layout: Layout) -> dict[str, Any]:
        """Arguments of the position function about time."""
        return {}


class Qwen25VL(Qwen2VL):
    """Adapter for ``qwen2_5_vl`` checkpoints: window attention in the tower, seconds in the temporal ids."""

    model_type = "qwen2_5_vl"
    signals = TOWER_SIGNALS - {"cls_by_layer"}  # most layers see windows only
    about = About(
        "Qwen2.5-VL",
        tuple(f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B", "32B", "72B")),
        tokens="(H / 28)(W / 28) per two frames",
        limits=(
            _GRID_NOTE,
            "a slice is a pair of frames: it is encoded when either frame changed, and spans end at pairs",
            "transformers 5.17 cuts the seconds between slices to a whole number, so that below one second all slices "
            "share a temporal position; newer releases keep the fraction",
        ),
    )

    @property
    def last_layer(self) -> int:
        """The last block that sees a whole slice; the others see windows of 112 pixels."""
        whole: int = max(self.model.config.vision_config.fullatt_block_indexes)
        return min(whole, len(encoder_layers(self.tower)) - 1)

    def clock(self, layout: Layout) -> dict[str, Any]:
        """Seconds between slices, from the mean rate of the sampled frames."""
        rate = layout.frames / layout.duration if layout.duration else 1.0
        return {"second_per_grid_ts": torch.tensor([self.frames_per_slice / rate])}

    def pool(self, signal: Tensor, layout: Layout) -> Tensor:
        """The tower's rows are in the order of its windows; put them back, then as usual."""
        pooled = super().pool(signal, layout)
        order = self._windows(layout).to(pooled.device)
        return torch.empty_like(pooled).index_copy_(1, order, pooled)

    def patch_order(self, layout: Layout) -> Tensor:
        """The patches of each token together, tokens window by window."""
        return super().patch_order(layout).view(layout.tokens, -1)[self._windows(layout)].flatten()

    def _windows(self, layout: Layout) -> Tensor:
        """[N], the tokens of a slice in the order of the tower's windows."""
        vision = self.model.config.vision_config
        side = vision.window_size // self.merge // self.patch  # tokens along a window
        high, wide = layout.grid
        window = (torch.arange(high) // side)[:, None] * -(-wide // side) + torch.arange(wide) // side
        order: Tensor = window.flatten().argsort(stable=True)
        return order
