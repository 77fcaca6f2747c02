# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints, and how many tokens a clip becomes in them: arithmetic that needs no model and no torch.

Their names are those of ``bench ask --arch``, and so are their sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vidcomp.core.architectures import ARCHITECTURES, ModelShape
from vidcomp.core.stock_rules import StockRule

__all__ = [
    "INTERNVL_RULE",
    "PUBLISHED",
    "QWEN2_RULE",
    "QWEN3_RULE",
    "SMOLVLM_RULE",
    "VIDEO_LLAMA_3_RULE",
    "Published",
    "fitted",
]


QWEN2_RULE = StockRule(fps=2.0, min_frames=4, max_frames=768, multiple=2)
QWEN3_RULE = StockRule("linspace", fps=2.0, min_frames=4, max_frames=768)
INTERNVL_RULE = StockRule(shift=-1)
SMOLVLM_RULE = StockRule("floor", frames=64, fps=1.0, skip_seconds=1.0, cap_by_rate=True)
VIDEO_LLAMA_3_RULE = StockRule(fps=1.0, min_frames=4, max_frames=180)
"""How the families' own processors sample."""


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        checkpoint: hub id.
        shape: of its language model, in bfloat16.
        tokens: frames, height and width of a clip to its visual tokens.
        stock: how its own processor samples.
    """

    checkpoint: str
    shape: ModelShape
    tokens: Callable[[int, int, int], int]
    stock: StockRule


def fitted(
    height: int, width: int, unit: int, least: float, most: float, frames: int = 1, counted: int | None = None
) -> tuple[int, int]:
    """Multiples of ``unit`` near (height, width), with an area times ``frames`` between two bounds.

    The rounding is that of the stock processors, which look whether the area of ``counted`` frames is within the bounds
    and then scale for ``frames``.
    """
    rounded = (round(height / unit) * unit, round(width / unit) * unit)
    area = (counted or frames) * rounded[0] * rounded[1]
    if area > most:
        shrink = math.sqrt(frames * height * width / most)
        return max(unit, math.floor(height / shrink / unit) * unit), max(unit, math.floor(width / shrink / unit) * unit)
    if area < least:
        grow = math.sqrt(least / (frames * height * width))
        return math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
    return rounded


def _per_frame(tokens: int, after: int = 0) -> Callable[[int, int, int], int]:
    return lambda frames, height, width: frames * tokens + after


def _qwen2_5(frames: int, height: int, width: int) -> int:
    high, wide = fitted(height, width, 28, 3136, 12845056)
    return math.ceil(frames / 2) * (high // 28) * (wide // 28)


def _qwen3(frames: int, height: int, width: int) -> int:
    frames = max(frames, 2)
    scale = max(1.0, 32 / min(height, width))
    sides = int(height * scale), int(width * scale)
    high, wide = fitted(*sides, 32, 4096, 25165824, frames, counted=round(frames / 2) * 2)
    return math.ceil(frames / 2) * (high // 32) * (wide // 32)


def _video_llama_3(frames: int, height: int, width: int) -> int:
    high, wide = fitted(height, width, 28, 12544, 12845056 // frames)
    return frames * (high // 28) * (wide // 28)


_ANY = StockRule(frames=32)

PUBLISHED: dict[str, Published] = {
    name: Published(checkpoint, ARCHITECTURES[name].shape, tokens, stock)
    for name, checkpoint, tokens, stock in (
        ("llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", _per_frame(196, 1), _ANY),
        ("llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", _per_frame(196, 1), _ANY),
        ("llava-next-video-7b", "llava-hf/LLaVA-NeXT-Video-7B-hf", _per_frame(144), _ANY),
        ("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", _qwen2_5, QWEN2_RULE),
        ("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", _qwen2_5, QWEN2_RULE),
        ("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", _qwen3, QWEN3_RULE),
        ("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", _qwen3, QWEN3_RULE),
        ("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", _per_frame(256), replace(INTERNVL_RULE, frames=32)),
        ("internvl3.5-8b", "OpenGVLab/InternVL3_5-8B-HF", _per_frame(256), replace(INTERNVL_RULE, frames=32)),
        ("smolvlm2-500m", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", _per_frame(64), SMOLVLM_RULE),
        ("smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", _per_frame(81), SMOLVLM_RULE),
        ("videollama3-7b", "lkhl/VideoLLaMA3-7B-Image-HF", _video_llama_3, VIDEO_LLAMA_3_RULE),
    )
}
