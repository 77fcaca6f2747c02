# SPDX-License-Identifier: Apache-2.0
"""Pixels to tensors with torch alone: the arithmetic of the stock video processors, without torchvision or Pillow.

Dimension letters: T frames, h and w the decoded size, H and W the size a network takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RESAMPLE", "normalize", "resize", "to_channels_first"]

RESAMPLE = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Resampling codes as the checkpoints' JSON files spell them."""

_SMOOTH = ("bilinear", "bicubic", "lanczos")


def to_channels_first(frames: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Decoded frames uint8 [T, h, w, 3] as a tensor uint8 [T, 3, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()


def resize(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize uint8 [T, 3, h, w] to uint8 [T, 3, H, W], bit-equal to the stock processors on CPU.

    The uint8 kernels of torch round and clip between their two passes; a resize in float differs by up to 15 grey
    levels. Where no uint8 kernel exists the resize runs in float32 and rounds once at the end.
    """
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    if mode == "lanczos" and pixels.device.type != "cpu":
        mode = "bicubic"  # as the stock processors do
    native = pixels.device.type == "cpu" and (
        mode in ("bicubic", "lanczos")
        or (mode == "bilinear" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"))
    )
    source = pixels if native else pixels.float()
    smooth = {"antialias": True, "align_corners": False} if mode in _SMOOTH else {}
    out = F.interpolate(source, size=list(size), mode=mode, **smooth)
    return out if native else out.clamp_(0, 255).round_().to(torch.uint8)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> Tensor:
    """Rescale and normalise in one step, float32 [T, 3, H, W]; folding the scale in is what makes it bit-equal."""
    center = torch.tensor(mean, device=pixels.device) * (1.0 / scale)
    spread = torch.tensor(std, device=pixels.device) * (1.0 / scale)
    return (pixels.float() - center.view(-1, 1, 1)).div_(spread.view(-1, 1, 1))
