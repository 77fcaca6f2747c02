# SPDX-License-Identifier: Apache-2.0
"""Stage "encoder": a small Dinov2-architecture frame encoder whose patch features tell where two frames differ.

Pairs of moments of the same video, each with its own noise: patches that show the same thing must have equal features,
patches where something changed must not. What changed is read off renderings without degradation. The result is an
ordinary Hugging Face folder.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from training.nano.ahead import ahead
from training.nano.model import SIDE, to_pixels
from training.nano.progress import RunSettings, adamw, set_rate, step
from training.nano.tower import SIZE_WEIGHTS, SIZES
from vidcomp.bench.world.render import render
from vidcomp.bench.world.seeds import ENCODER_TRAIN, VALIDATION
from vidcomp.bench.world.videos import make_video

SECONDS = 180.0
FOLDER = "frame_encoder"
PATCH = 16
_VIDEOS = 32  # pairs in a batch
_CHANGED, _SAME = 0.12, 0.015  # mean difference of a patch, of a range of 2; in between it is not scored
_APART = 0.2  # similarity that changed patches may keep


def build_encoder() -> Any:
    """A fresh Dinov2Model of about 0.2 million parameters."""
    torch.manual_seed(3)
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=4, image_size=SIDE, patch_size=PATCH
    )
    model: Any = Dinov2Model(config)
    model.set_attn_implementation("eager")
    return model


def patch_likeness(model: Any, first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the patch features of two batches of frames [B, 3, 96, 96]: [B, 36]."""
    features = model(torch.cat([first, second])).last_hidden_state[:, 1:].float()
    one, other = functional.normalize(features, dim=-1).chunk(2)
    return (one * other).sum(-1)


def frame_pairs(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two moments of `count` videos [B, 3, 96, 96] each, and how much every patch differs without noise [B, 36]."""
    first, second, change = [], [], []
    dice = random.Random(seed)
    for number in range(seed, seed + count):
        video, size = make_video(number), dice.choices(SIZES, SIZE_WEIGHTS)[0]
        times = [dice.random(), dice.random()]
        noisy = to_pixels(render(video, times, *size))
        clean = to_pixels(render(video, times, *size, degrade=False))
        gap = (clean[0] - clean[1]).abs().mean(0, keepdim=True)
        change.append(functional.avg_pool2d(gap, PATCH).flatten())
        first.append(noisy[0])
        second.append(noisy[1])
    return torch.stack(first), torch.stack(second), torch.stack(change)


def train_encoder(run: RunSettings, seconds: float = SECONDS) -> None:
    """Train from scratch and write STATE/frame_encoder."""
    model = build_encoder().to(run.device)
    optimizer, budget, count = adamw((list(model.parameters()), 1.5e-3)), run.budget(seconds), _VIDEOS * run.scale
    batches = ahead(partial(frame_pairs, count=count), ENCODER_TRAIN.start, count, run.loaders)
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, warmup=20, hold=0.3)
        first, second, change = (part.to(run.device) for part in next(batches))
        with torch.autocast(run.device, torch.bfloat16):
            likeness = patch_likeness(model, first, second)
        same, changed = change < _SAME, change > _CHANGED
        loss = (1 - likeness[same]).mean() + functional.relu(likeness[changed] - _APART).mean()
        step(optimizer, loss, budget)
    scores = separation(model.cpu(), run.held_out(400))
    run.log("encoder", steps=budget.done, videos=budget.done * count, loss=round(loss.item(), 4), **scores)
    save_encoder(model, run.state / FOLDER)


@torch.no_grad()
def separation(model: Any, videos: int) -> dict[str, float]:
    """Mean likeness of same and changed patches on held-out pairs, and areas under the ROC curve."""
    first, second, change = frame_pairs(VALIDATION.start, videos)
    likeness = patch_likeness(model, first, second)
    same, changed = change < _SAME, change > _CHANGED
    still, moved = ~(change >= _SAME).any(1), changed.any(1)
    least = likeness.min(1).values
    return {
        "same_patches": round(likeness[same].mean().item(), 4),
        "changed_patches": round(likeness[changed].mean().item(), 4),
        "patch_auc": round(_auc(likeness[same], likeness[changed]), 4),
        "frame_auc": round(_auc(least[still], least[moved]), 4),
    }


def _auc(high: Tensor, low: Tensor) -> float:
    """Probability that a value of the first group exceeds one of the second."""
    ranks = torch.searchsorted(low.sort().values, high)
    return (ranks.float().mean() / max(1, len(low))).item()


def save_encoder(model: Any, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    model.save_pretrained(folder)
    rule = {
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(rule, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)
