# SPDX-License-Identifier: Apache-2.0
"""Families that read pictures of any size as rows of patches: the token grid depends on the clip.

A row holds one patch of one slice; the M x M patches that become one token stand next to each other, tokens row by
row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.pixels import RESAMPLE, normalize, resize, to_channels_first
from vidcomp.errors import InputError
from vidcomp.families.base import Encoded, Family
from vidcomp.families.checkpoint import Checkpoint
from vidcomp.families.layout import Layout
from vidcomp.tower.probe import encoder_layers
from vidcomp.tower.shared import SharingTower

__all__ = ["PackedFamily", "patch_rows"]

_MOST_ELONGATED = 200  # as the stock processors


class PackedFamily(Family):
    """A tower that takes patch rows and a (t, h, w) grid of patches."""

    slot = visual = "<|video_pad|>"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.patch, self.merge = int(self.settings["patch_size"]), int(self.settings["merge_size"])

    @abstractmethod
    def picture_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(H, W) in pixels, multiples of ``patch * merge``, as the stock processor chooses them."""

    def geometry(self, frames: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int], int]:
        """Follows from the picture size.

        Raises:
            InputError: a picture of extreme shape, which the stock processors refuse too.
        """
        if max(height, width) > _MOST_ELONGATED * min(height, width):
            raise InputError(
                f"a picture of {width} x {height}", why=f"this model takes shapes up to {_MOST_ELONGATED} : 1"
            )
        size = self.picture_size(frames, height, width)
        unit = self.patch * self.merge
        grid = (size[0] // unit, size[1] // unit)
        return size, grid, grid[0] * grid[1] * self.merge**2

    def layout_seen(self, call: Mapping[str, Any], rows: int) -> Layout | None:
        """The tower gets the grid of patches; it is the same one in every copy of a batch."""
        grids = call["grid_thw"].tolist()
        merge = int(call["merge_sizes"][0]) if "merge_sizes" in call else self.merge
        slices, high, wide = grids[0]
        if any(grid != grids[0] for grid in grids) or slices * high * wide != rows * merge**2:
            return None
        times = tuple(float(second) for second in range(slices * self.frames_per_slice))
        size = (high * self.patch, wide * self.patch)
        grid = (high // merge, wide // merge)
        return Layout(times, float(len(times)), size, grid, high * wide, self.frames_per_slice)

    def pixels(self, frames: NDArray[np.uint8], layout: Layout | None = None) -> Tensor:
        """Patch rows of each slice: [t, patches, 3 * P * patch * patch]."""
        layout, rule = layout or self.layout_of(frames), self.settings
        resized = resize(to_channels_first(frames), layout.size, RESAMPLE[int(rule.get("resample", 3))])
        values = normalize(resized, rule["image_mean"], rule["image_std"], rule.get("rescale_factor", 1 / 255))
        return patch_rows(values, self.patch, self.merge, self.frames_per_slice)

    @property
    def sharing_tower(self) -> SharingTower:
        """All layers up to the last one that sees a whole slice."""
        return SharingTower(tuple(encoder_layers(self.tower)[: self.last_layer + 1]))

    def patches(self, pixels: Tensor, layout: Layout) -> Tensor:
        """[t, H, W, 3 * P, p, p]; a patch of a pair holds both frames."""
        high, wide = layout.grid
        std = torch.tensor(self.settings["image_std"]).view(3, 1, 1, 1)
        cut = pixels.view(-1, high, wide, self.merge, self.merge, 3, self.frames_per_slice, self.patch, self.patch)
        rows = (cut * std).permute(0, 1, 3, 2, 4, 5, 6, 7, 8)
        return rows.reshape(len(cut), high * self.merge, wide * self.merge, -1, self.patch, self.patch)

    def patch_order(self, layout: Layout) -> Tensor:
        """Tokens row by row, and in each the rows of its patches."""
        high, wide = layout.grid
        numbers = torch.arange(layout.patches).view(high, self.merge, wide, self.merge)
        return numbers.transpose(1, 2).flatten()

    def thw(self, slices: int, layout: Layout) -> Tensor:
        """The grid of patches as the stock model takes it: [1, 3]."""
        return torch.tensor([[slices, layout.grid[0] * self.merge, layout.grid[1] * self.merge]])

    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """[t, N, D], and DeepStack levels where the tower gives them."""
        out = self.stock_features(pixels.flatten(0, 1), self.thw(len(pixels), layout).to(pixels.device))
        shape = (len(pixels), layout.tokens, -1)
        # a tensor per level in older releases, a tuple of tensors, one per video, in newer ones
        levels = [torch.cat(list(level)) if isinstance(level, (list, tuple)) else level
                  for level in getattr(out, "deepstack_features", None) or ()]  # fmt: skip
        return Encoded(out.pooler_output[0].view(shape), deepstack=tuple(level.view(shape) for level in levels))

    def stock_features(self, rows: Tensor, thw: Tensor) -> Any:
        """The stock model's own call."""
        return self.model.base_model.get_video_features(rows, thw, return_dict=True)

    def pool(self, signal: Tensor, layout: Layout) -> Tensor:
        """[t, patches] or [t, patches, C] averaged over the patches of each token: [t, N] or [t, N, C]."""
        return signal.reshape(len(signal), layout.tokens, -1, *signal.shape[2:]).mean(2)


def patch_rows(values: Tensor, patch: int, merge: int, per_slice: int) -> Tensor:
    """[F, 3, H, W] to rows [T, patches, 3 * per_slice * patch * patch]; an odd last frame is doubled."""
    missing = -len(values) % per_slice
    if missing:
        values = torch.cat([values, values[-1:].expand(missing, -1, -1, -1)])
    slices, (high, wide) = len(values) // per_slice, (side // patch // merge for side in values.shape[-2:])
    cut = values.view(slices, per_slice, 3, high, merge, patch, wide, merge, patch)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(slices, high * wide * merge**2, -1)
