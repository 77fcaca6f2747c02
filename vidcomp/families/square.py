# SPDX-License-Identifier: Apache-2.0
"""Families that bring every frame to one square, so that every frame costs the same number of tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vidcomp.core.pixels import RESAMPLE, normalize, resize, to_channels_first
from vidcomp.families.base import Family
from vidcomp.families.checkpoint import Checkpoint
from vidcomp.families.layout import Layout
from vidcomp.tower.probe import encoder_layers
from vidcomp.tower.shared import SharingTower

__all__ = ["SquareFamily", "frame_rows"]


class SquareFamily(Family):
    """A tower that reads squares of ``vision_config.image_size`` in patches of ``vision_config.patch_size``."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        vision = self.model.config.vision_config
        self.side = _number(vision.image_size)
        self.patches_per_side = self.side // _number(vision.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the tokens of one frame; N = H * W."""
        side = self.tokens_per_side()
        return side, side

    @abstractmethod
    def tokens_per_side(self) -> int:
        """Tokens along one side of a frame, after pooling."""

    @property
    def used_layers(self) -> list[int]:
        """The layers whose output feeds the projector; hidden state k is the output of layer k - 1."""
        count = len(encoder_layers(self.tower))
        chosen = getattr(self.model.config, "vision_feature_layer", -1)
        states = [chosen] if isinstance(chosen, int) else list(chosen)
        return [(state if state >= 0 else count + 1 + state) - 1 for state in states]

    @property
    def last_layer(self) -> int:
        """The last of :attr:`used_layers`."""
        return max(self.used_layers)

    @property
    def sharing_tower(self) -> SharingTower:
        """All layers up to the first one whose output the projector reads."""
        return SharingTower(tuple(encoder_layers(self.tower)[: min(self.used_layers) + 1]), leading=self.leading)

    def geometry(self, frames: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int], int]:
        """The same for every clip."""
        return (self.side, self.side), self.grid, self.patches_per_side**2

    def layout_seen(self, call: Mapping[str, Any], rows: int) -> Layout | None:
        """Every frame has the same number of tokens."""
        frames, left = divmod(rows, self.grid[0] * self.grid[1])
        alone = self.frame_line is None  # else one call of the tower reads pictures and frames
        if left or not frames or (alone and call["pictures"] % frames):
            return None
        times = tuple(float(second) for second in range(frames))
        return Layout(times, float(frames), (self.side, self.side), self.grid, self.patches_per_side**2)

    def pixels(self, frames: NDArray[np.uint8], layout: Layout | None = None) -> Tensor:
        """Brought to the tower's square and normalised: [t, 3, S, S]."""
        rule = self.settings
        square = self.squared(to_channels_first(frames), RESAMPLE[int(rule.get("resample", 3))])
        return normalize(square, rule["image_mean"], rule["image_std"], rule.get("rescale_factor", 1 / 255))

    def squared(self, frames: Tensor, mode: str) -> Tensor:
        """uint8 [t, 3, h, w] to uint8 [t, 3, S, S]: squashed, whatever the aspect ratio."""
        size = self.settings["size"]
        return resize(frames, (int(size["height"]), int(size["width"])), mode)

    def patches(self, pixels: Tensor, layout: Layout) -> Tensor:
        """[t, side, side, 3, p, p]; what is left over at the edges is not read by the tower either."""
        side, patch = self.patches_per_side, _number(self.model.config.vision_config.patch_size)
        shares = pixels * torch.tensor(self.settings["image_std"]).view(-1, 1, 1)
        cut = shares[:, :, : side * patch, : side * patch].reshape(-1, 3, side, patch, side, patch)
        return cut.permute(0, 2, 4, 1, 3, 5)

    def pool(self, signal: Tensor, layout: Layout) -> Tensor:
        """A signal per patch resized with the pooling of the features: [t, N] or [t, N, C]."""
        side = self.patches_per_side
        planes = signal.reshape(len(signal), side, side, -1).movedim(-1, 1)  # [t, C, side, side]
        pooled = self.pooled(planes, layout).flatten(2).transpose(1, 2)
        return pooled if signal.dim() > 2 else pooled[:, :, 0]

    def pooled(self, planes: Tensor, layout: Layout) -> Tensor:
        """[t, C, side, side] averaged over the block of patches that becomes one token: [t, C, H, W]."""
        return avg_pool2d(planes, self.patches_per_side // layout.grid[0])


def frame_rows(output: Any, layout: Layout) -> Tensor:
    """Features of the stock model as [t, N, D]: a tensor in some releases and families, one per video in others."""
    rows = torch.cat(list(output)) if isinstance(output, (list, tuple)) else output
    return rows.reshape(-1, layout.tokens, rows.shape[-1])


def _number(side: Any) -> int:
    return int(side if isinstance(side, int) else side[0])
