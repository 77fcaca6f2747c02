"""Stage "salience": in the last tower layer, patches look at objects, as they do in large image encoders.

Compression methods read a token's salience off the attention that it receives in the tower. The stage "tower" leaves it
on the objects, and "join", which moves the tower, takes it off them again. Here only the tower moves: it keeps its
features, as seen through the projector, and learns to spread its last attention over the objects of the frame, with a
floor everywhere.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vidcomp.nano.language import WORLDS
from vidcomp.nano.model import build_model, load_weights, pool
from vidcomp.nano.progress import RunSettings, adamw, set_rate, step
from vidcomp.nano.seeds import SALIENCE_TRAIN, VALIDATION
from vidcomp.nano.tower import FrameBatch, frame_batch

SECONDS = 120.0
_FRAMES = 16  # frames in a batch
_FLOOR = 0.3  # share of the wanted attention that is spread over all patches
_WEIGHT = 0.1  # of the attention loss against the feature loss
_CHECK_STEPS = 200


def train_salience(run: RunSettings, seconds: float = SECONDS) -> None:
    """Fit the tower of STATE/joint.pt and save the model with it as STATE/salience.pt."""
    torch.manual_seed(5)
    saved = run.load("joint")
    model = build_model()
    load_weights(model, saved["model"])
    model.to(run.device)
    tower = model.model.vision_tower
    teacher = copy.deepcopy(tower).requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(False)
    tower.requires_grad_(True)
    optimizer, budget, seed = adamw((list(tower.parameters()), 4e-4)), run.budget(seconds), SALIENCE_TRAIN.start
    world = WORLDS[run.world].options
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, hold=0.5)
        drift, gaze = _losses(tower, teacher, projector, frame_batch(seed, _FRAMES, world), run.device)
        step(optimizer, drift + _WEIGHT * gaze, budget)
        seed += _FRAMES
        if budget.done % _CHECK_STEPS == 0 or not budget.left:
            _check(run, tower, teacher, projector, budget.done, round(budget.elapsed))
            run.save("salience", {**saved, "model": model.state_dict()})


def received(tower: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features before the final norm [B, P, D] and attention received in the last layer [B, P], rows summing to 1."""
    out = tower(pixels, output_attentions=True, output_hidden_states=True)
    return out.hidden_states[-1], out.attentions[-1].float().mean((1, 2))


def _losses(tower: Any, teacher: Any, projector: Any, batch: FrameBatch, device: str) -> tuple[Tensor, Tensor]:
    """How far the visual tokens drifted, relative to their spread, and the cross-entropy of the attention."""
    pixels, objects = batch.pixels.to(device), _objects(batch).to(device).float()
    with torch.autocast(device, torch.bfloat16):
        hidden, attention = received(tower, pixels)
        tokens = pool(projector(hidden)).float()
        with torch.no_grad():
            wanted = pool(projector(teacher(pixels, output_hidden_states=True).hidden_states[-1])).float()
    weight = 1 + 3 * (pool(objects[..., None])[..., 0] > 0).float()
    drift = ((tokens - wanted).pow(2).mean(-1) * weight).sum() / weight.sum() / wanted.var()
    patches = objects.shape[1]
    target = functional.normalize(objects, p=1, dim=1) * (1 - _FLOOR) + _FLOOR / patches
    seen = objects.sum(1) > 0
    return drift, -(target * attention.clamp(min=1e-8).log()).sum(1)[seen].mean()


def _objects(batch: FrameBatch) -> Tensor:
    """Patches [B, P] that show an object or a digit."""
    return (batch.color > 0) | (batch.digit > 0)


@torch.no_grad()
def _check(run: RunSettings, tower: Any, teacher: Any, projector: Any, steps: int, seconds: int) -> None:
    """Log drift and the mean rank of object patches on held-out frames."""
    batch = frame_batch(VALIDATION.start, run.held_out(64), WORLDS[run.world].options)
    _, attention = received(tower, batch.pixels.to(run.device))
    rank = attention.argsort(dim=1, descending=True).argsort(dim=1).float().cpu()
    drift, gaze = _losses(tower, teacher, projector, batch, run.device)
    objects = _objects(batch)
    run.log(
        "salience", seconds=seconds, steps=steps, drift=round(drift.item(), 4), attention=round(gaze.item(), 3),
        object_rank=round(rank[objects].mean().item(), 1), other_rank=round(rank[~objects].mean().item(), 1),
    )  # fmt: skip
