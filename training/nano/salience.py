# SPDX-License-Identifier: Apache-2.0
"""Stage "salience": in the last tower layer, patches look at objects, as they do in large image encoders.

Compression methods read a token's salience off the attention that it receives in the tower. The stage "tower" leaves it
on the objects, and "join", which moves the tower, takes it off them again. Here only the tower moves: it keeps its
features, as seen through the projector, and learns to spread its last attention over the objects of the frame, with a
floor everywhere. Where the world has digits it also learns to read them, mostly in windows of half a frame, so that a
tower that knew none can be taught.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.nano.ahead import ahead
from training.nano.language import WORLDS
from training.nano.model import TOWER_WIDTH, build_model, load_weights, pool, tower_features
from training.nano.progress import Budget, RunSettings, adamw, set_rate, step
from training.nano.tower import FrameBatch, cut_windows, frame_batch, naming_loss
from vidcomp.bench.world.seeds import SALIENCE_TRAIN, VALIDATION
from vidcomp.bench.world.vocabulary import DIGITS

SECONDS = 120.0
_FRAMES = 16  # frames in a batch
_FLOOR = 0.3  # share of the wanted attention that is spread over all patches
_WEIGHT = 0.1  # of the attention loss against the feature loss
_READING = 0.5  # of the digit loss
_WINDOWS = 5  # of each frame with a digit
_CHECK_STEPS = 200


@dataclass(frozen=True)
class _Parts:
    """The tower as it was and as it becomes, and what looks through it."""

    tower: Any
    teacher: Any
    projector: Any
    reader: nn.Module  # features to scores of no digit and the ten digits


def train_salience(run: RunSettings, seconds: float = SECONDS) -> None:
    """Fit the tower of STATE/joint.pt and save the model with it as STATE/salience.pt."""
    torch.manual_seed(5)
    saved = run.load("joint")
    model = build_model()
    load_weights(model, saved["model"])
    parts = _parts(model.to(run.device))
    optimizer = adamw((list(parts.tower.parameters()), 4e-4), (list(parts.reader.parameters()), 2e-3))
    budget, seed, world = run.budget(seconds), SALIENCE_TRAIN.start, WORLDS[run.world].options
    world = replace(world, digit=float(world.digit > 0))
    count = _FRAMES * run.scale
    batches = ahead(partial(frame_batch, count=count, world=world), seed, count, run.loaders)
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, hold=0.5)
        batch = next(batches)
        drift, gaze = _losses(parts, batch, run.device)
        step(optimizer, drift + _WEIGHT * gaze + _READING * _reading_loss(parts, batch, seed, run.device), budget)
        seed += count
        if budget.done % _CHECK_STEPS == 0 or not budget.left:
            _check(run, parts, budget)
            run.save("salience", {**saved, "model": model.state_dict()})


def _parts(model: Any) -> _Parts:
    """Only the tower and a fresh reader learn."""
    tower = model.model.vision_tower
    teacher = copy.deepcopy(tower).requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(False)
    reader = nn.Linear(TOWER_WIDTH, len(DIGITS) + 1).to(model.device)
    return _Parts(tower.requires_grad_(True), teacher, projector, reader)


def received(tower: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features before the final norm [B, P, D] and attention received in the last layer [B, P], rows summing to 1."""
    out = tower(pixels, output_attentions=True, output_hidden_states=True)
    return out.hidden_states[-1], out.attentions[-1].float().mean((1, 2))


def _losses(parts: _Parts, batch: FrameBatch, device: str) -> tuple[Tensor, Tensor]:
    """Drift of the tokens without a digit, relative to their spread, and the cross-entropy of the attention."""
    pixels, objects = batch.pixels.to(device), _objects(batch).to(device).float()
    with torch.autocast(device, torch.bfloat16):
        hidden, attention = received(parts.tower, pixels)
        tokens = pool(parts.projector(hidden)).float()
        with torch.no_grad():
            wanted = pool(parts.projector(tower_features(parts.teacher, pixels))).float()
    weight = 1 + 3 * (pool(objects[..., None])[..., 0] > 0).float()
    weight = weight * (pool((batch.digit.to(device) != 0).float()[..., None])[..., 0] == 0)
    drift = ((tokens - wanted).pow(2).mean(-1) * weight).sum() / weight.sum() / wanted.var()
    patches = objects.shape[1]
    target = functional.normalize(objects, p=1, dim=1) * (1 - _FLOOR) + _FLOOR / patches
    seen = objects.sum(1) > 0
    return drift, -(target * attention.clamp(min=1e-8).log()).sum(1)[seen].mean()


def _reading_loss(parts: _Parts, batch: FrameBatch, seed: int, device: str) -> Tensor:
    """Cross-entropy of the digits in windows around them; zero where there are none."""
    shown = (batch.digit > 0).any(1)
    if not shown.any():
        return batch.pixels.new_zeros(()).to(device)
    some = FrameBatch(*(part[shown] for part in batch.tensors()))
    windows = cut_windows(some, some.digit > 0, random.Random(seed), _WINDOWS)
    with torch.autocast(device, torch.bfloat16):
        hidden = tower_features(parts.tower, windows.pixels.to(device), windows.places(device))
        scores = parts.reader(hidden)
    return naming_loss(scores.float(), windows.digit.to(device))


def _objects(batch: FrameBatch) -> Tensor:
    """Patches [B, P] that show an object or a digit."""
    return (batch.color > 0) | (batch.digit > 0)


@torch.no_grad()
def _check(run: RunSettings, parts: _Parts, budget: Budget) -> None:
    """Log drift, the mean rank of object patches and the share of digit patches that are read, on held-out frames."""
    batch = frame_batch(VALIDATION.start, run.held_out(96), WORLDS[run.world].options)
    hidden, attention = received(parts.tower, batch.pixels.to(run.device))
    rank = attention.argsort(dim=1, descending=True).argsort(dim=1).float().cpu()
    drift, gaze = _losses(parts, batch, run.device)
    objects, digits = _objects(batch), batch.digit > 0
    read = (parts.reader(hidden).argmax(-1).cpu() == batch.digit)[digits].float()
    found = {"read": round(read.mean().item(), 3)} if len(read) else {}
    run.log(
        "salience", seconds=round(budget.elapsed), steps=budget.done, drift=round(drift.item(), 4),
        attention=round(gaze.item(), 3), object_rank=round(rank[objects].mean().item(), 1),
        other_rank=round(rank[~objects].mean().item(), 1), **found,
    )  # fmt: skip
