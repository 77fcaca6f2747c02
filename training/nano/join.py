# SPDX-License-Identifier: Apache-2.0
"""Stage "join": the projector learns to speak the symbolic language that the language model has learnt.

The pooled output of tower and projector on a rendered frame is drawn towards the embedding of the symbolic tokens of
the same frame. The tower follows at a lower rate. Afterwards the parts form one stock model.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.nano.ahead import ahead
from training.nano.language import WORLDS, SymbolicModel
from training.nano.model import build_model, to_pixels, visual_tokens
from training.nano.progress import RunSettings, adamw, set_rate, step
from training.nano.symbolic import FOREGROUND, SymbolicProjector, symbolic_tokens
from training.nano.tower import SIZE_WEIGHTS, SIZES
from vidcomp.bench.world.render import render
from vidcomp.bench.world.seeds import JOIN_TRAIN, VALIDATION
from vidcomp.bench.world.videos import Options, Video, make_video

SECONDS = 200.0
_VIDEOS, _FRAMES = 4, 4  # videos in a batch, and frames of each


def render_batch(videos: list[Video], times: list[float], rng: random.Random) -> Tensor:
    """Rendered and resized frames [B, T, 3, 96, 96], each video at a random native size."""
    sizes = rng.choices(SIZES, SIZE_WEIGHTS, k=len(videos))
    return torch.stack([to_pixels(render(v, times, *size)) for v, size in zip(videos, sizes, strict=True)])


def symbolic_target(projector: SymbolicProjector, videos: list[Video], times: list[float]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, T * 36, D] that the language model was trained on, and the foreground mask [B, T * 36]."""
    rng = np.random.default_rng(0)
    symbols = torch.from_numpy(np.stack([symbolic_tokens(v, times, rng, noise=0, ground=False) for v in videos]))
    symbols = symbols.flatten(1, 2)
    device = next(projector.parameters()).device
    with torch.no_grad():
        return projector(symbols.to(device)), (symbols[..., FOREGROUND].sum(-1) > 0).to(device)


def match_loss(tokens: Tensor, target: Tensor, foreground: Tensor) -> Tensor:
    """Squared error per token relative to the spread of the target, foreground tokens counting four times."""
    weight = 1 + 3 * foreground.float()
    error = (tokens.float() - target).pow(2).mean(-1)
    return (error * weight).sum() / weight.sum() / target.var().clamp(min=1e-6)


def assemble(run: RunSettings) -> tuple[Any, SymbolicProjector]:
    """One stock model from the states of the stages "tower" and "lm", and the symbolic projector."""
    model, symbolic = build_model(), SymbolicModel()
    symbolic.load_state_dict(run.load("lm")["model"])
    model.model.vision_tower.load_state_dict(run.load("tower")["tower"])
    model.model.language_model.load_state_dict(symbolic.decoder.state_dict())
    model.model.image_newline.data.copy_(symbolic.newline.data)
    return model.to(run.device), symbolic.projector.to(run.device)


def train_join(run: RunSettings, seconds: float = SECONDS) -> None:
    """Fit projector and tower to the symbolic embeddings and save STATE/join.pt."""
    torch.manual_seed(2)
    model, symbolic = assemble(run)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    optimizer = adamw((list(projector.parameters()), 2e-3), (list(tower.parameters()), 5e-4))
    budget = run.budget(seconds)
    world = WORLDS[run.world].options
    options = replace(world, frames=1, scenes=(1,))
    held_out = [make_video(s, options) for s in range(VALIDATION.start, VALIDATION.start + run.held_out(100))]
    held_pixels = render_batch(held_out, [0.0], random.Random(0))
    average = 0.0
    count = _VIDEOS * run.scale
    batches = ahead(partial(_moments, count=count, world=world), JOIN_TRAIN.start, count, run.loaders)
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, hold=0.5)
        loss = _step_loss(model, symbolic, *next(batches), run.device)
        step(optimizer, loss, budget)
        average = loss.item() if not average else 0.98 * average + 0.02 * loss.item()
        if budget.done % 400 == 0 or not budget.left:
            with torch.no_grad():
                held = _step_loss(model, symbolic, held_out, [0.0], held_pixels, run.device).item()
            run.log(
                "join", seconds=round(budget.elapsed), steps=budget.done, loss=round(average, 4), held=round(held, 4)
            )
            run.save("join", {"model": model.state_dict(), "symbolic": symbolic.state_dict(), "updates": 0})


def _moments(seed: int, count: int, world: Options) -> tuple[list[Video], list[float], Tensor]:
    """`count` videos, moments and the frames of all videos at these moments."""
    dice = random.Random(seed)
    videos, times = [make_video(seed + i, world) for i in range(count)], [dice.random() for _ in range(_FRAMES)]
    return videos, times, render_batch(videos, times, dice)


def _step_loss(
    model: Any,
    symbolic: SymbolicProjector,
    videos: list[Video],
    times: list[float],
    pixels: Tensor,
    device: str,
) -> Tensor:
    """Matching loss of a batch of frames."""
    with torch.autocast(device, torch.bfloat16):
        tokens = visual_tokens(model, pixels.to(device))
    return match_loss(tokens, *symbolic_target(symbolic, videos, times))
